/* test_story_files.c - methods that use files: what they wrote is there after a crash, or not. */
#include "story.h"

#define LONG (10 * STORY_SECOND)
#define SEEDS 20

struct book {
  struct story s;
  bool blocking;
  int wrote; /* what writing gave; 1: not yet */
  int read;
  char text[64];
};

static void writes(struct sim_client *c, void *arg)
{
  struct book *b = arg;
  chi_client *client;
  chi_queue *queue;
  if (story_attach(c, &client, &queue) != CHI_OK)
    return; /* the node has died before */
  struct story_file *t = STORY_NEW(queue, story_file);
  if (t) {
    t->write = 1;
    memcpy(t->text, "a line", 7);
    b->wrote = chi_run(queue, t);
    CHECK(b->wrote != CHI_OK || t->bytes == 64);
  }
  chi_client_close(client);
}

static void reads(struct sim_client *c, void *arg)
{
  struct book *b = arg;
  chi_client *client;
  chi_queue *queue;
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
  struct story_file *t = STORY_NEW(queue, story_file);
  CHECK(t);
  b->read = chi_run(queue, t);
  memcpy(b->text, t->text, sizeof(b->text));
  chi_client_close(client);
}

/* What was reported durable is there, wherever the power went; what wasn't may be there or not, but
 * a line is whole. */
TEST(story_file_survives_a_crash_once_synced)
{
  int there = 0, absent = 0, late = 0;
  for (uint64_t seed = 0; seed < story_seeds(60); seed++) {
    struct book b = {.wrote = 1, .read = 1};
    CHECK_STR(story_begin(&b.s, seed), "");
    sim_client(b.s.sim, 0, writes, &b);
    sim_run_for(b.s.sim, 40 * STORY_US * seed);
    sim_node_crash(b.s.sim, 0);
    bool idle = sim_run_idle(b.s.sim, LONG);
    int rc = story_start(&b.s);
    sim_client(b.s.sim, 0, reads, &b);
    idle = sim_run_idle(b.s.sim, LONG) && idle;
    CHECK_STR(story_end(&b.s), "");
    CHECK_INT(rc, CHI_OK);
    CHECK(idle);
    CHECK_INT(b.read, CHI_OK);
    CHECK(!strcmp(b.text, "") || !strcmp(b.text, "a line"));
    if (b.wrote == CHI_OK)
      CHECK_STR(b.text, "a line");
    late += b.wrote == CHI_OK;
    there += b.wrote != CHI_OK && b.text[0];
    absent += b.wrote != CHI_OK && !b.text[0];
  }
  CHECK((there && absent && late) || !story_is_whole(60));
}

/* The same where operations on files hold their worker up. */
TEST(story_file_where_io_blocks)
{
  for (uint64_t seed = 0; seed < story_seeds(SEEDS); seed++) {
    struct book b = {.wrote = 1, .read = 1};
    story_open(&b.s, seed);
    sim_node_blocking_io(b.s.sim, 0, true);
    int rc = story_start(&b.s);
    sim_client(b.s.sim, 0, writes, &b);
    bool idle = sim_run_idle(b.s.sim, LONG);
    sim_client(b.s.sim, 0, reads, &b);
    idle = sim_run_idle(b.s.sim, LONG) && idle;
    bool told = story_tells(&b.s, "worker 2: open /data/line", "worker 2: write", NULL);
    CHECK_STR(story_end(&b.s), "");
    CHECK_INT(rc, CHI_OK);
    CHECK(idle && told);
    CHECK_INT(b.wrote, CHI_OK);
    CHECK_STR(b.text, "a line");
  }
}

/* Whatever fails, the task says so and nothing stays open. */
TEST(story_file_errors_reach_the_caller)
{
  static const struct {
    uint32_t op;
    int result, want;
  } faults[] = {{ENV_IO_OPEN, CHI_EACCES, CHI_EACCES},  {ENV_IO_WRITE, CHI_EIO, CHI_EIO},
                {ENV_IO_WRITE, CHI_ENOSPC, CHI_ENOSPC}, {ENV_IO_SYNC, CHI_EIO, CHI_EIO},
                {ENV_IO_DIRSYNC, CHI_EIO, CHI_EIO},     {ENV_IO_CLOSE, CHI_EIO, CHI_OK}};
  for (size_t i = 0; i < CHI_COUNT(faults); i++) {
    struct book b = {.wrote = 1};
    const struct sim_fault_io rule = {
        .node = 0, .op = faults[i].op, .path = "line", .times = 1, .result = faults[i].result};
    CHECK_STR(story_begin(&b.s, i), "");
    sim_fault_add(sim_faults(b.s.sim), &rule);
    sim_client(b.s.sim, 0, writes, &b);
    bool idle = sim_run_idle(b.s.sim, LONG);
    uint64_t injected = sim_faults(b.s.sim)->injected;
    CHECK_STR(story_end(&b.s), "");
    CHECK(idle);
    CHECK_INT(injected, 1);
    CHECK_INT(b.wrote, faults[i].want);
  }
}

/* A short write is continued. */
TEST(story_file_short_writes_are_completed)
{
  const struct sim_fault_io rule = {.node = 0, .op = ENV_IO_WRITE, .limit = 7};
  struct book b = {.wrote = 1, .read = 1};
  CHECK_STR(story_begin(&b.s, 1), "");
  sim_fault_add(sim_faults(b.s.sim), &rule);
  sim_client(b.s.sim, 0, writes, &b);
  bool idle = sim_run_idle(b.s.sim, LONG);
  uint64_t injected = sim_faults(b.s.sim)->injected;
  sim_client(b.s.sim, 0, reads, &b);
  idle = sim_run_idle(b.s.sim, LONG) && idle;
  CHECK_STR(story_end(&b.s), "");
  CHECK(idle);
  CHECK_INT(injected, 10);
  CHECK_INT(b.wrote, CHI_OK);
  CHECK_STR(b.text, "a line");
}
