/* test_tape.c - what is written is read; what differs, is damaged or cut off is told. */
#include "tape.h"

#include "reel.h"
#include "test.h"

#include <setjmp.h>
#include <stdlib.h>

#define LONG (TAPE_BLOCK * 2 + 77)

enum { SOME = 2, SAYS = 1, ASKS = 3 };

struct tape_file {
  struct reel reel;
  struct tape tape;
  jmp_buf lost;
};

static const char *tape_kind_name(int kind)
{
  return kind == SOME ? "some" : kind == SAYS ? "says:" : kind == ASKS ? "asks:" : NULL;
}

static void tape_file_lost(void *arg)
{
  longjmp(((struct tape_file *)arg)->lost, 1);
}

static struct tape_file *tape_file_new(void)
{
  struct tape_file *f = calloc(1, sizeof(*f));
  f->tape.name = tape_kind_name;
  return f;
}

static void tape_file_free(struct tape_file *f)
{
  reel_free(&f->reel);
  free(f);
}

/* The same calls write a tape and read it; `odd` changes what is said. */
static void tape_play(struct tape *t, unsigned char *big, uint64_t *number, char *text, int odd)
{
  tape_in(t, SOME);
  tape_u64(t, number);
  tape_text(t, text, 40);
  tape_out(t, SAYS);
  tape_say(t, 7);
  tape_say_bytes(t, "eight", 5);
  tape_said(t);
  tape_in(t, SOME);
  tape_bytes(t, big, LONG);
  tape_out(t, odd == 2 ? ASKS : SAYS);
  tape_say(t, odd == 1 ? 10 : 9);
  tape_said(t);
}

static struct tape_file *tape_written(void)
{
  struct tape_file *f = tape_file_new();
  struct tape_store store = reel_store(&f->reel);
  unsigned char *big = malloc(LONG);
  uint64_t number = UINT64_MAX - 1;
  char text[40] = "a text";
  for (size_t i = 0; i < LONG; i++)
    big[i] = (unsigned char)(i * 7 + i / 256);
  tape_write(&f->tape, &store);
  tape_play(&f->tape, big, &number, text, 0);
  tape_finish(&f->tape);
  free(big);
  return f;
}

/* Reads what was written, or what that has been turned into; f->tape.end says how it went. */
static void tape_read_again(struct tape_file *f, int odd)
{
  struct tape_store store = reel_store(&f->reel);
  unsigned char *big = calloc(1, LONG);
  uint64_t number = 0;
  char text[40] = "";
  memset(&f->tape, 0, sizeof(f->tape));
  f->tape.name = tape_kind_name;
  f->tape.lost = tape_file_lost;
  f->tape.arg = f;
  if (setjmp(f->lost) == 0 && tape_read(&f->tape, &store)) {
    tape_play(&f->tape, big, &number, text, odd);
    CHECK_INT(tape_next(&f->tape), 0);
    CHECK(number == UINT64_MAX - 1);
    CHECK_STR(text, "a text");
    CHECK(big[LONG - 1] == (unsigned char)((LONG - 1) * 7 + (LONG - 1) / 256));
  }
  free(big);
}

TEST(tape_reads_what_it_wrote)
{
  struct tape_file *f = tape_written();
  uint64_t hash = hash_stream_finish(&f->tape.hash), items = f->tape.items;
  CHECK_INT(items, 4);
  tape_read_again(f, 0);
  CHECK_INT(f->tape.end, TAPE_COMPLETE);
  CHECK(hash_stream_finish(&f->tape.hash) == hash);
  CHECK_INT(f->tape.items, 4);
  tape_file_free(f);
}

TEST(tape_tail_is_told_without_reading_on)
{
  struct tape_file *f = tape_written();
  uint64_t hash = hash_stream_finish(&f->tape.hash), items = 0, told = 0;
  CHECK(f->reel.size > TAPE_TAIL);
  CHECK(tape_tail(f->reel.data + f->reel.size - TAPE_TAIL, &items, &told));
  CHECK(items == f->tape.items && told == hash);
  f->reel.data[f->reel.size - 1] ^= 1;
  CHECK(!tape_tail(f->reel.data + f->reel.size - TAPE_TAIL, &items, &told));
  CHECK(!tape_tail(f->reel.data + f->reel.size - TAPE_TAIL - 1, &items, &told));
  tape_file_free(f);
}

TEST(tape_tells_both_sides_of_a_difference)
{
  struct tape_file *f = tape_written();
  tape_read_again(f, 1);
  CHECK_INT(f->tape.end, TAPE_DIFFERS);
  CHECK_STR(f->tape.why.text, "item 4: recorded was {says: 9}, and now comes {says: 10}");
  tape_read_again(f, 2);
  CHECK_INT(f->tape.end, TAPE_DIFFERS);
  CHECK_STR(f->tape.why.text, "item 3: recorded was {says: 9}, and now comes {asks: 9}");
  tape_file_free(f);
}

TEST(tape_that_is_cut_off_is_never_complete)
{
  struct tape_file *f = tape_written();
  size_t size = f->reel.size;
  for (size_t n = 0; n < size; n += n < 100 || size - n < 100 ? 1 : 4099) {
    f->reel.size = n;
    tape_read_again(f, 0);
    CHECK_INT(f->tape.end, n < 12 ? TAPE_FOREIGN : TAPE_CUT);
  }
  tape_file_free(f);
}

TEST(tape_with_a_flipped_bit_is_never_complete)
{
  struct tape_file *f = tape_written();
  for (size_t n = 0; n < f->reel.size; n += n < 100 || f->reel.size - n < 100 ? 1 : 4099) {
    f->reel.data[n] ^= 4;
    tape_read_again(f, 0);
    CHECK_INT(f->tape.end, n < 12 ? TAPE_FOREIGN : TAPE_DAMAGED);
    CHECK(f->tape.why.text[0] != '\0');
    f->reel.data[n] ^= 4;
  }
  tape_read_again(f, 0);
  CHECK_INT(f->tape.end, TAPE_COMPLETE);
  tape_file_free(f);
}

TEST(tape_of_another_version_is_refused)
{
  struct tape_file *f = tape_written();
  f->reel.data[8]++;
  tape_read_again(f, 0);
  CHECK_INT(f->tape.end, TAPE_FOREIGN);
  CHECK_INT(f->tape.why.code, CHI_EVERSION);
  CHECK_STR(f->tape.why.text, "is a record of version 2; this program reads version 1");
  tape_file_free(f);
}

/* More is said, or less, than was: at the end of the tape, too. */
TEST(tape_end_must_be_met)
{
  struct tape_file *f = tape_written();
  struct tape_store store = reel_store(&f->reel);
  unsigned char *big = calloc(1, LONG);
  uint64_t number;
  char text[40];
  memset(&f->tape, 0, sizeof(f->tape));
  f->tape.lost = tape_file_lost;
  f->tape.arg = f;
  if (setjmp(f->lost) == 0) {
    CHECK(tape_read(&f->tape, &store));
    tape_play(&f->tape, big, &number, text, 0);
    tape_out(&f->tape, SAYS);
    tape_said(&f->tape);
  }
  CHECK_INT(f->tape.end, TAPE_DIFFERS);
  CHECK_STR(f->tape.why.text, "the record is at its end, and the node goes on");
  free(big);
  tape_file_free(f);
}

TEST(tape_that_cannot_be_written_says_so)
{
  struct tape_file *f = tape_file_new();
  struct tape_store store = reel_store(&f->reel);
  unsigned char *big = calloc(1, LONG);
  f->reel.refuse = TAPE_BLOCK + 1000;
  CHECK_INT(tape_write(&f->tape, &store), CHI_OK);
  tape_in(&f->tape, SOME);
  tape_bytes(&f->tape, big, LONG);
  tape_flush(&f->tape);
  CHECK_INT(f->tape.failed, CHI_ENOSPC);
  size_t size = f->reel.size;
  f->reel.refuse = 0; /* there is room again: a gap would be worse than an end */
  tape_in(&f->tape, SOME);
  tape_finish(&f->tape);
  CHECK_INT(f->tape.failed, CHI_ENOSPC);
  CHECK_INT(f->reel.size, size);
  free(big);
  tape_file_free(f);
}

/* Numbers that cannot be, with checksums that fit. */
TEST(tape_values_are_bounded)
{
  struct tape_file *f = tape_file_new();
  struct tape_store store = reel_store(&f->reel);
  unsigned char endless[11];
  uint64_t value = 200;
  char text[40] = "";
  memset(endless, 0xff, sizeof(endless));
  CHECK_INT(tape_write(&f->tape, &store), CHI_OK);
  tape_in(&f->tape, SOME);
  tape_u64(&f->tape, &value); /* as the length of a text */
  tape_finish(&f->tape);
  memset(&f->tape, 0, sizeof(f->tape));
  CHECK(tape_read(&f->tape, &store)); /* without anybody to be told: it comes back */
  tape_in(&f->tape, SOME);
  tape_text(&f->tape, text, sizeof(text));
  CHECK_INT(f->tape.end, TAPE_DAMAGED);
  CHECK_STR(text, "");
  f->reel.size = 0;
  store = reel_store(&f->reel);
  memset(&f->tape, 0, sizeof(f->tape));
  CHECK_INT(tape_write(&f->tape, &store), CHI_OK);
  tape_in(&f->tape, SOME);
  tape_bytes(&f->tape, endless, sizeof(endless));
  tape_finish(&f->tape);
  memset(&f->tape, 0, sizeof(f->tape));
  CHECK(tape_read(&f->tape, &store));
  tape_in(&f->tape, SOME);
  tape_u64(&f->tape, &value);
  CHECK_INT(f->tape.end, TAPE_DAMAGED);
  tape_file_free(f);
}
