/* test_task.c - plans of declared structs, and the copy between client memory and private. */
#include "task.h"
#include "test.h"

/* ---- plans */

#define TASK_PLAIN(X, T)                                                                           \
  X(T, IN, u64, a) X(T, OUT, u32, b) X(T, OUT, u32, c) X(T, IN, u8, d) X(T, INOUT, f64, e)
CHI_TASK(task_plain, 10, TASK_PLAIN)
#define TASK_BOOL(X, T) X(T, IN, bool, yes) X(T, OUT, u64, n)
CHI_TASK(task_bool, 11, TASK_BOOL)
#define TASK_TEXT(X, T) X(T, IN, u64, n) X(T, OUT, str, text, 8)
CHI_TASK(task_text, 12, TASK_TEXT)
#define TASK_STRIPES(X, T)                                                                         \
  X(T, OUT, u8, o0) X(T, IN, u8, i0) X(T, OUT, u8, o1) X(T, IN, u8, i1)                            \
  X(T, OUT, u8, o2) X(T, IN, u8, i2) X(T, OUT, u8, o3) X(T, IN, u8, i3)                            \
  X(T, OUT, u8, o4) X(T, IN, u8, i4) X(T, OUT, u8, o5) X(T, IN, u8, i5)                            \
  X(T, OUT, u8, o6) X(T, IN, u8, i6) X(T, OUT, u8, o7) X(T, IN, u8, i7)                            \
  X(T, OUT, u8, o8) X(T, IN, u8, i8) X(T, OUT, u8, o9) X(T, IN, u8, i9)                            \
  X(T, OUT, u8, o10) X(T, IN, u8, i10) X(T, OUT, u8, o11) X(T, IN, u8, i11)                        \
  X(T, OUT, u8, o12)
CHI_TASK(task_stripes, 13, TASK_STRIPES)

TEST(task_plan_merges_neighbours)
{
  struct task_plan p;
  CHECK_INT(task_plan_init(&p, &task_plain_type, NULL), CHI_OK);
  CHECK(p.plain && p.out_count == 2 && p.type == &task_plain_type);
  CHECK_INT(p.out[0].offset, offsetof(struct task_plain, b));
  CHECK_INT(p.out[0].size, 8);
  CHECK_INT(p.out[1].offset, offsetof(struct task_plain, e));
  CHECK_INT(p.out[1].size, 8);
}

TEST(task_plan_field_by_field)
{
  struct task_plan p;
  CHECK_INT(task_plan_init(&p, &task_bool_type, NULL), CHI_OK);
  CHECK(!p.plain && p.out_count == 1);
  CHECK_INT(task_plan_init(&p, &task_text_type, NULL), CHI_OK);
  CHECK(!p.plain && p.out_count == UINT32_MAX);
  CHECK_INT(task_plan_init(&p, &task_stripes_type, NULL), CHI_OK);
  CHECK(p.plain && p.out_count == UINT32_MAX); /* one run more than there is room for */
}

/* Changes one thing in the declaration of task_text. */
static void task_refused(chi_type type, chi_field first, const char *words)
{
  chi_field fields[2] = {first, task_text_fields[1]};
  struct task_plan p;
  chi_error err = {0};
  type.fields = fields;
  CHECK_INT(task_plan_init(&p, &type, &err), CHI_EINVAL);
  CHECK_INT(err.code, CHI_EINVAL);
  if (!strstr(err.text, words))
    CHECK_STR(err.text, words);
  CHECK_INT(task_plan_init(&p, &type, NULL), CHI_EINVAL);
}

TEST(task_plan_refuses_the_impossible)
{
  const chi_type type = task_text_type;
  const chi_field field = task_text_fields[0];
  chi_type t = type;
  t.name = NULL;
  task_refused(t, field, "impossible size");
  t = type;
  t.size = sizeof(chi_task) - 1;
  task_refused(t, field, "impossible size");
  t.size = (1u << 24) + 1;
  task_refused(t, field, "impossible size");
  chi_field f = field;
  f.name = NULL;
  task_refused(type, f, "declared wrongly");
  f = field, f.dir = 0;
  task_refused(type, f, "declared wrongly");
  f = field, f.dir = 4;
  task_refused(type, f, "declared wrongly");
  f = field, f.kind = 0;
  task_refused(type, f, "declared wrongly");
  f = field, f.kind = CHI_KIND_bulk + 1;
  task_refused(type, f, "declared wrongly");
  f = field, f.room = 0;
  task_refused(type, f, "declared wrongly");
  f = field, f.elem = &task_bool_type; /* of a scalar */
  task_refused(type, f, "declared wrongly");
  f = field, f.kind = CHI_KIND_array; /* of nothing */
  task_refused(type, f, "declared wrongly");
  f = field, f.size = 4;
  task_refused(type, f, "size");
  f = field, f.offset = 8; /* in the header */
  task_refused(type, f, "outside");
  f = field, f.offset = type.size - 4;
  task_refused(type, f, "outside");
  f = field, f.offset = UINT32_MAX;
  task_refused(type, f, "outside");
  f = field, f.preset = NULL;
  task_refused(type, f, "declared wrongly");
  f = field, f.room = 2; /* of what is no array */
  task_refused(type, f, "declared wrongly");
  f = field, f.kind = CHI_KIND_str, f.size = 0;
  task_refused(type, f, "wrong size");
  f = field, f.kind = CHI_KIND_bulk;
  task_refused(type, f, "wrong size");
  t = type, t.size += 16;
  f = field, f.offset = type.size + 2;
  task_refused(t, f, "not aligned");
  f.kind = CHI_KIND_pool;
  task_refused(t, f, "not aligned");
  f = field, f.kind = CHI_KIND_str, f.size = 8, f.offset += 1;
  task_refused(type, f, "overlaps");
  f = field, f.offset = task_text_fields[1].offset;
  task_refused(type, f, "overlaps");
  f = field, f.name = task_text_fields[1].name;
  task_refused(type, f, "twice");
  t = type, t.field_count = 4097;
  task_refused(t, field, "4097 fields");
}

TEST(task_plan_refuses_fields_that_are_not_there)
{
  chi_type t = task_text_type;
  struct task_plan p;
  chi_error err = {0};
  t.fields = NULL;
  CHECK_INT(task_plan_init(&p, &t, &err), CHI_EINVAL);
  CHECK(strstr(err.text, "without its fields"));
  t.field_count = 0;
  CHECK_INT(task_plan_init(&p, &t, &err), CHI_OK);
}

#define TASK_CELL(X, T) X(T, IN, u32, key) X(T, IN, str, name, 8)
CHI_STRUCT(task_cell, TASK_CELL)
#define TASK_BOX(X, T) X(T, IN, object, cell, task_cell) X(T, IN, u8, flag)
CHI_STRUCT(task_box, TASK_BOX)
#define TASK_SHELF(X, T) X(T, IN, array, boxes, task_box, 3) X(T, IN, u64, n) X(T, IN, bulk, data)
CHI_TASK(task_shelf, 16, TASK_SHELF)

/* A declaration of task_shelf of which anything may be changed. */
static struct task_hand {
  chi_field cell[2], box[2], shelf[3];
  chi_type cell_type, box_type, shelf_type;
} task_hand;

static struct task_hand *task_by_hand(void)
{
  struct task_hand *h = &task_hand;
  memcpy(h->cell, task_cell_fields, sizeof h->cell);
  memcpy(h->box, task_box_fields, sizeof h->box);
  memcpy(h->shelf, task_shelf_fields, sizeof h->shelf);
  h->cell_type = task_cell_type, h->box_type = task_box_type, h->shelf_type = task_shelf_type;
  h->cell_type.fields = h->cell, h->box_type.fields = h->box, h->shelf_type.fields = h->shelf;
  h->box[0].elem = &h->cell_type, h->shelf[0].elem = &h->box_type;
  return h;
}

static void task_hand_refused(const char *words)
{
  struct task_plan p;
  chi_error err = {0};
  CHECK_INT(task_plan_init(&p, &task_hand.shelf_type, &err), CHI_EINVAL);
  if (!strstr(err.text, words))
    CHECK_STR(err.text, words);
}

TEST(task_plan_checks_counts)
{
  struct task_plan p;
  uint32_t values = task_shelf_fields[0].offset;
  CHECK_INT(task_plan_init(&p, &task_by_hand()->shelf_type, NULL), CHI_OK);
  task_by_hand()->shelf[0].count_offset = 0; /* in the header */
  task_hand_refused("task_shelf: field boxes has its count outside");
  task_by_hand()->shelf[0].count_offset = sizeof(struct task_shelf) - 2;
  task_hand_refused("count outside");
  task_by_hand()->shelf[0].count_offset = UINT32_MAX;
  task_hand_refused("count outside");
  task_by_hand()->shelf[0].count_offset += 1;
  task_hand_refused("count that is not aligned");
  task_by_hand()->shelf[0].count_offset = values;
  task_hand_refused("overlaps its own count");
  task_by_hand()->shelf[0].count_offset = (uint32_t)offsetof(struct task_shelf, n);
  task_hand_refused("field n overlaps another");
}

TEST(task_plan_checks_buffers)
{
  task_by_hand()->shelf[2].size = sizeof(chi_bulk) - 8;
  task_hand_refused("field data has the wrong size");
  task_by_hand()->shelf[2].offset += 4;
  task_hand_refused("field data lies outside");
  task_by_hand()->shelf_type.size += 8;
  task_hand.shelf[2].offset += 4;
  task_hand_refused("field data is not aligned");
}

TEST(task_plan_checks_what_is_inside)
{
  task_by_hand()->cell[0].offset = sizeof(struct task_cell);
  task_hand_refused("task_shelf: in field boxes: task_cell: field key lies outside");
  task_by_hand()->cell[1].offset = 2;
  task_hand_refused("task_cell: field name overlaps");
  task_by_hand()->cell[1].size = 0;
  task_hand_refused("task_cell: field name has the wrong size");
  task_by_hand()->cell[1].name = NULL;
  task_hand_refused("task_cell: field ? is declared wrongly");
  task_by_hand()->cell_type.name = NULL;
  task_hand_refused("without a name");
  task_by_hand()->box[1].offset = 2;
  task_hand_refused("task_box: field flag overlaps");
  task_by_hand()->box[0].size = 8;
  task_hand_refused("task_box: field cell has the wrong size");
  task_by_hand()->shelf[0].size = 8;
  task_hand_refused("task_shelf: field boxes has the wrong size");
  task_by_hand()->box[0].offset = 1, task_hand.box[1].offset = 0;
  task_hand_refused("task_box: field cell is not aligned");
  task_by_hand()->shelf[0].offset += 2, task_hand.shelf[0].room = 2;
  task_hand_refused("task_shelf: field boxes is not aligned");
  task_by_hand()->shelf[0].size = 13; /* the second element would be askew */
  task_hand.box_type.size = 13, task_hand.shelf[0].room = 1;
  task_hand_refused("task_shelf: field boxes is not aligned");
  task_by_hand()->box[0].elem = &task_hand.box_type;
  task_hand.box[0].size = task_hand.box_type.size;
  task_hand.box_type.field_count = 1;
  task_hand_refused("scalars, strings, objects only"); /* a struct in itself */
}

#define TASK_HOLDER(X, T) X(T, IN, bulk, data)
CHI_STRUCT(task_holder, TASK_HOLDER)
#define TASK_HOLDERS(X, T) X(T, IN, array, holders, task_holder, 2)
CHI_TASK(task_holders, 14, TASK_HOLDERS)

TEST(task_plan_refuses_buffers_in_elements)
{
  struct task_plan p;
  chi_error err = {0};
  CHECK_INT(task_plan_init(&p, &task_holders_type, &err), CHI_EINVAL);
  CHECK(strstr(err.text, "holders"));
}

/* ---- the copy */

#define TASK_ROW(X, T) X(T, IN, u16, id) X(T, IN, bool, set) X(T, IN, str, name, 6)
CHI_STRUCT(task_row, TASK_ROW)
#define TASK_FULL(X, T)                                                                            \
  X(T, IN, u64, in) X(T, OUT, u64, out) X(T, INOUT, str, both, 8) X(T, IN, bool, yes)              \
  X(T, IN, object, one, task_row) X(T, INOUT, array, rows, task_row, 3)                            \
  X(T, OUT, array, found, task_row, 2) X(T, IN, bulk, from) X(T, OUT, bulk, to)
CHI_TASK(task_full, 15, TASK_FULL)

static struct task_desk {
  struct task_full shared;
  char data[64];
} task_desk __attribute__((aligned(64)));
static struct task_full task_copy;
static struct shm_chunk task_chunk[1];
static const struct shm_table task_table = {task_chunk, 1};
static struct task_plan task_plan_full;

static uint64_t task_ref(const void *p)
{
  return shm_ref(0, (uint64_t)((const char *)p - (const char *)&task_desk));
}

/* A task as a client would submit it. */
static void task_fill(void)
{
  memset(&task_desk, 0, sizeof task_desk);
  memset(&task_copy, 0, sizeof task_copy);
  task_chunk[0] = (struct shm_chunk){(char *)&task_desk, sizeof task_desk};
  struct task_full *t = &task_desk.shared;
  t->task = (chi_task){.method = 15, .flags = 5, .rc = -9, .id = 77};
  t->in = 1;
  t->out = 2;
  memcpy(t->both, "both", 5);
  t->yes = 1;
  t->one = (struct task_row){3, 1, "one"};
  t->rows_count = 2;
  t->rows[0] = (struct task_row){4, 0, "row"};
  t->rows[1] = (struct task_row){5, 1, "row 2"};
  t->found_count = 9;
  t->from = (chi_bulk){.data = &task_plan_full, .size = 16, .ref = task_ref(task_desk.data)};
  t->to = (chi_bulk){.data = &task_plan_full, .size = 8, .ref = task_ref(task_desk.data + 16)};
}

static int task_in(void)
{
  chi_task header = task_desk.shared.task;
  if (task_plan_init(&task_plan_full, &task_full_type, NULL) != CHI_OK)
    return -1000;
  return task_copy_in(&task_plan_full, &task_table, &header, &task_desk.shared.task,
                      &task_copy.task);
}

TEST(task_copy_in_takes_what_goes_in)
{
  task_fill();
  CHECK_INT(task_in(), CHI_OK);
  CHECK(memcmp(&task_copy.task, &task_desk.shared.task, sizeof(chi_task)) == 0);
  CHECK(task_copy.in == 1 && task_copy.yes == 1 && task_copy.out == 0);
  CHECK_STR(task_copy.both, "both");
  CHECK(task_copy.one.id == 3 && task_copy.one.set == 1);
  CHECK_STR(task_copy.one.name, "one");
  CHECK(task_copy.rows_count == 2 && task_copy.rows[1].id == 5 && task_copy.rows[2].id == 0);
  CHECK_STR(task_copy.rows[1].name, "row 2");
  CHECK_INT(task_copy.found_count, 0);
  CHECK(task_copy.from.data == task_desk.data && task_copy.from.size == 16);
  CHECK(task_copy.to.data == task_desk.data + 16 && task_copy.to.size == 8);
}

/* The header has been read and checked before; what it says now is of no account. */
TEST(task_copy_in_reads_the_header_once)
{
  task_fill();
  chi_task header = task_desk.shared.task;
  CHECK_INT(task_plan_init(&task_plan_full, &task_full_type, NULL), CHI_OK);
  memset(&task_desk.shared.task, 0xff, sizeof(chi_task));
  CHECK_INT(task_copy_in(&task_plan_full, &task_table, &header, &task_desk.shared.task,
                         &task_copy.task),
            CHI_OK);
  CHECK(memcmp(&task_copy.task, &header, sizeof header) == 0);
  struct task_plan plan;
  struct task_plain shared = {.a = 8}, copy = {.a = 9};
  memset(&shared.task, 0xff, sizeof shared.task);
  CHECK_INT(task_plan_init(&plan, &task_plain_type, NULL), CHI_OK);
  CHECK_INT(task_copy_in(&plan, &task_table, &header, &shared.task, &copy.task), CHI_OK);
  CHECK(copy.a == 8 && memcmp(&copy.task, &header, sizeof header) == 0);
}

TEST(task_copy_in_tidies)
{
  task_fill();
  memset(task_desk.shared.both, 'x', sizeof task_desk.shared.both);
  memset(task_desk.shared.one.name, 'y', sizeof task_desk.shared.one.name);
  memset(task_desk.shared.rows[1].name, 'z', sizeof task_desk.shared.rows[1].name);
  task_desk.shared.yes = 0x80;
  task_desk.shared.one.set = 255;
  task_desk.shared.rows[0].set = 2;
  CHECK_INT(task_in(), CHI_OK);
  CHECK_STR(task_copy.both, "xxxxxxx");
  CHECK_STR(task_copy.one.name, "yyyyy");
  CHECK_STR(task_copy.rows[1].name, "zzzzz");
  CHECK(task_copy.yes == 1 && task_copy.one.set == 1 && task_copy.rows[0].set == 1);
}

TEST(task_copy_in_refuses_counts)
{
  task_fill();
  task_desk.shared.rows_count = 3;
  CHECK_INT(task_in(), CHI_OK);
  task_desk.shared.rows_count = 4;
  CHECK_INT(task_in(), CHI_ECORRUPT);
  task_desk.shared.rows_count = UINT32_MAX;
  CHECK_INT(task_in(), CHI_ECORRUPT);
}

TEST(task_copy_in_refuses_buffers)
{
  const uint64_t whole = sizeof task_desk, data = offsetof(struct task_desk, data);
  const struct {
    uint64_t ref, size;
    int rc;
  } row[] = {{0, 0, CHI_OK}, /* none */
             {0, 1, CHI_ECORRUPT},
             {shm_ref(0, data), whole - data, CHI_OK},
             {shm_ref(0, data), whole - data + 1, CHI_ECORRUPT},
             {shm_ref(0, data + 4), 4, CHI_ECORRUPT},
             {shm_ref(0, data), UINT64_MAX, CHI_ECORRUPT},
             {shm_ref(1, 0), 8, CHI_ECORRUPT},
             {UINT64_MAX, 8, CHI_ECORRUPT}};
  for (uint32_t i = 0; i < sizeof row / sizeof row[0]; i++) {
    for (int out = 0; out < 2; out++) {
      task_fill();
      chi_bulk *b = out ? &task_desk.shared.to : &task_desk.shared.from;
      b->ref = row[i].ref;
      b->size = row[i].size;
      CHECK_INT(task_in(), row[i].rc);
      b = out ? &task_copy.to : &task_copy.from;
      CHECK(row[i].rc != CHI_OK || (b->data != NULL) == (row[i].ref != 0));
    }
  }
}

TEST(task_copy_out_gives_what_goes_out)
{
  task_fill();
  CHECK_INT(task_in(), CHI_OK);
  struct task_full before = task_desk.shared;
  struct task_full *c = &task_copy;
  c->task.rc = 5;
  c->in = 100;
  c->out = 200;
  memcpy(c->both, "new", 4);
  c->yes = 0;
  c->one.id = 100;
  c->rows_count = 1;
  c->rows[0].id = 41;
  c->rows[1].id = 51;
  c->found_count = 2;
  c->found[1] = (struct task_row){61, 0, "found"};
  c->from.size = c->to.size = 3;
  c->from.data = c->to.data = c;
  task_copy_out(&task_plan_full, &task_copy.task, &task_desk.shared.task);
  const struct task_full *t = &task_desk.shared;
  CHECK(memcmp(&t->task, &before.task, sizeof(chi_task)) == 0);
  CHECK(t->in == 1 && t->yes == 1 && t->one.id == 3);
  CHECK_INT(t->out, 200);
  CHECK_STR(t->both, "new");
  CHECK(t->rows_count == 1 && t->rows[0].id == 41 && t->rows[1].id == 5);
  CHECK(t->found_count == 2 && t->found[1].id == 61);
  CHECK_INT(t->from.size, 16);
  CHECK_INT(t->to.size, 3);
  CHECK(t->to.data == before.to.data && t->to.ref == before.to.ref);
}

/* A method that leaves its own copy in disorder hurts nobody. */
TEST(task_copy_out_stays_in_bounds)
{
  task_fill();
  CHECK_INT(task_in(), CHI_OK);
  memset(task_copy.both, 'x', sizeof task_copy.both);
  task_copy.found_count = UINT32_MAX;
  task_copy.rows_count = 4;
  char data[sizeof task_desk.data];
  memcpy(data, task_desk.data, sizeof data);
  task_copy_out(&task_plan_full, &task_copy.task, &task_desk.shared.task);
  CHECK_STR(task_desk.shared.both, "xxxxxxx");
  CHECK(task_desk.shared.found_count == 2 && task_desk.shared.rows_count == 3);
  CHECK(memcmp(data, task_desk.data, sizeof data) == 0);
}

TEST(task_copy_out_by_runs)
{
  struct task_plan p;
  struct task_plain copy = {.a = 1, .b = 2, .c = 3, .d = 4, .e = 5.5}, shared = {.a = 9, .d = 9};
  CHECK_INT(task_plan_init(&p, &task_plain_type, NULL), CHI_OK);
  copy.task.rc = 7;
  task_copy_out(&p, &copy.task, &shared.task);
  CHECK(shared.a == 9 && shared.b == 2 && shared.c == 3 && shared.d == 9 && shared.e == 5.5);
  CHECK_INT(shared.task.rc, 0);
  struct task_stripes in = {.o0 = 1, .i0 = 2, .o12 = 3, .i11 = 4}, out = {.i0 = 9};
  CHECK_INT(task_plan_init(&p, &task_stripes_type, NULL), CHI_OK);
  task_copy_out(&p, &in.task, &out.task);
  CHECK(out.o0 == 1 && out.i0 == 9 && out.o12 == 3 && out.i11 == 0);
}

/* ---- lists and records */

TEST(task_list_is_first_in_first_out)
{
  struct task_list l = {0};
  chi_ctx a = {0}, b = {0}, c = {0};
  CHECK(task_list_pop(&l) == NULL);
  task_list_push(&l, &a);
  task_list_push(&l, &b);
  CHECK(task_list_pop(&l) == &a);
  task_list_push(&l, &c);
  task_list_push(&l, &a);
  CHECK(task_list_pop(&l) == &b && task_list_pop(&l) == &c && task_list_pop(&l) == &a);
  CHECK(task_list_pop(&l) == NULL && l.tail == NULL);
}

TEST(task_record_stands_before_its_copy)
{
  static char memory[TASK_RECORD + sizeof(struct task_plain)] __attribute__((aligned(64)));
  chi_ctx *ctx = (chi_ctx *)(void *)memory;
  CHECK(task_record(memory + TASK_RECORD) == ctx);
  CHECK(task_of(&ctx->node) == ctx);
  CHECK(TASK_RECORD % 64 == 0 && TASK_RECORD >= sizeof(chi_ctx));
}
