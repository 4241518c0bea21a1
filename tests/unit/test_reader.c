/* test_reader.c - what the reader makes of keys and values without any file: the corners that the
 * corpus of test_real_conf does not reach, and suggestions. */
#include "reader.h"

#include "test.h"

struct reader_fixture {
  chi_config config;
  struct report report;
  struct reader reader;
  int line; /* of the last thing written */
  char last[2048];
};

static void reader_keep(void *arg, int level, const char *text)
{
  struct reader_fixture *f = arg;
  (void)level;
  snprintf(f->last, sizeof(f->last), "%s", text);
}

static void reader_open(struct reader_fixture *f)
{
  memset(f, 0, sizeof(*f));
  chi_config_init(&f->config);
  f->report = (struct report){"f", reader_keep, f, NULL, 0, CHI_OK};
  f->reader.config = &f->config;
  f->reader.report = &f->report;
}

static struct reader_value reader_make(struct reader_fixture *f, int kind, const char *text)
{
  return (struct reader_value){kind, text, {f->line, 9}};
}

static enum reader_step reader_begin(struct reader_fixture *f, const char *section)
{
  int kind = strcmp(section, "compose") == 0 ? READER_LIST : READER_MAP;
  struct reader_value value = reader_make(f, kind, "");
  f->line++;
  return reader_section(&f->reader, section, (struct report_mark){f->line, 1}, &value);
}

/* Writes a key on the next line; gives what was reported about it, "" for nothing. */
static const char *reader_say(struct reader_fixture *f, const char *name, int kind,
                              const char *text)
{
  struct reader_value value;
  f->line++;
  f->last[0] = '\0';
  value = reader_make(f, kind, text);
  reader_key(&f->reader, name, (struct report_mark){f->line, 3}, &value);
  return f->last;
}

/* What is suggested for a key of that section. */
static const char *reader_suggest(const char *section, const char *name)
{
  static char found[128];
  struct reader_fixture f;
  const char *start;
  reader_open(&f);
  found[0] = '\0';
  if (*section) {
    reader_begin(&f, section);
    reader_say(&f, name, READER_TEXT, "1");
  } else {
    reader_begin(&f, name);
  }
  start = strstr(f.last, "did you mean \"");
  if (start)
    snprintf(found, sizeof(found), "%.*s", (int)strcspn(start + 14, "\""), start + 14);
  chi_config_free(&f.config);
  return found;
}

TEST(reader_suggestions)
{
  CHECK_STR(reader_suggest("networking", "prot"), "networking.port");
  CHECK_STR(reader_suggest("networking", "zmqport"), "networking.port");
  CHECK_STR(reader_suggest("networking", "hostfile_"), "networking.hostfile");
  CHECK_STR(reader_suggest("networking", "wait_for_restart_period"),
            "networking.wait_for_restart_poll_period");
  CHECK_STR(reader_suggest("networking", "wait_for_restrat"), "networking.wait_for_restart");
  CHECK_STR(reader_suggest("workers", "shced_threads"), "workers.sched_threads");
  CHECK_STR(reader_suggest("workers", "num_threads"), "workers.sched_threads");
  CHECK_STR(reader_suggest("runtime", "level"), "logging.level");
  CHECK_STR(reader_suggest("logging", "x"), "");
  CHECK_STR(reader_suggest("", "worker"), "workers");
  CHECK_STR(reader_suggest("", "netwrk"), "networking");
  CHECK_STR(reader_suggest("", "performence"), "runtime");
  CHECK_STR(reader_suggest("", "composes"), "compose");
  CHECK_STR(reader_suggest("", "queue_depht"), "runtime.queue_depth");
  CHECK_STR(reader_suggest("", "frobnicate"), "");
  CHECK_STR(reader_suggest("", ""), "");
}

TEST(reader_without_variables)
{
  struct reader_fixture f;
  reader_open(&f);
  CHECK_INT(reader_begin(&f, "logging"), READER_KEYS);
  CHECK_STR(reader_say(&f, "file", READER_TEXT, "${HOME}/x"),
            "f:2:9: logging.file: the variable HOME is not set");
  reader_end(&f.reader);
  CHECK(strstr(f.last, "the variable USER is not set"));
  CHECK_STR(f.config.log_file, "/tmp/chimaera.log");
}

TEST(reader_remembers_where)
{
  struct reader_fixture f;
  reader_open(&f);
  CHECK_INT(reader_begin(&f, "network"), READER_KEYS);
  CHECK_STR(reader_say(&f, "port", READER_NUMBER, "7"),
            "f:2:3: \"network.port\" is now spelled \"networking.port\"");
  CHECK_INT(reader_written(&f.reader, "networking.port").line, 2);
  CHECK_INT(reader_written(&f.reader, "networking.port").column, 3);
  CHECK_INT(reader_written(&f.reader, "networking.hostfile").line, 0);
  CHECK_INT(f.config.port, 7);
}

/* A value that was not valid does not take part in comparing spellings. */
TEST(reader_invalid_then_older_spelling)
{
  struct reader_fixture f;
  reader_open(&f);
  reader_begin(&f, "networking");
  CHECK_STR(reader_say(&f, "port", READER_TEXT, "x"),
            "f:2:9: networking.port: expected a whole number from 1 to 65535, found \"x\"");
  CHECK_STR(reader_say(&f, "zmq_port", READER_NUMBER, "6000"),
            "f:3:3: \"networking.zmq_port\" is now spelled \"networking.port\"");
  CHECK_INT(f.config.port, 6000);
  CHECK_INT(f.report.errors, 1);
}

TEST(reader_refused_values_count_as_given)
{
  struct reader_fixture f;
  struct reader_value refused = {READER_REFUSED, "", {1, 1}};
  reader_open(&f);
  reader_begin(&f, "networking");
  CHECK_STR(reader_say(&f, "port", READER_REFUSED, ""), "");
  CHECK_STR(reader_say(&f, "port", READER_NUMBER, "1"),
            "f:3:3: \"networking.port\" is given twice, first in line 2");
  CHECK_INT(reader_section(&f.reader, "compose", (struct report_mark){4, 1}, &refused),
            READER_SKIP);
  CHECK(!reader_pool(&f.reader, &refused));
  CHECK_INT(f.report.errors, 1);
}

TEST(reader_expansion_fits_exactly)
{
  struct reader_fixture f;
  char name[CHI_NAME_MAX + 1];
  memset(name, 'n', sizeof(name));
  reader_open(&f);
  reader_begin(&f, "shared_memory");
  name[CHI_NAME_MAX] = '\0';
  CHECK_STR(reader_say(&f, "main_segment_name", READER_TEXT, name),
            "f:2:9: shared_memory.main_segment_name: longer than 255 bytes");
  name[CHI_NAME_MAX - 1] = '\0';
  CHECK_STR(reader_say(&f, "client_data_segment_name", READER_TEXT, name), "");
  CHECK_STR(f.config.client_data_segment_name, name);
}

TEST(reader_long_words)
{
  struct reader_fixture f;
  char name[CHI_NAME_MAX];
  memset(name, 'n', sizeof(name));
  name[CHI_NAME_MAX - 1] = '\0';
  reader_open(&f);
  reader_begin(&f, "workers");
  reader_say(&f, name, READER_TEXT, "1");
  CHECK(strncmp(f.last, "f:2:3: unknown key \"workers.nnn", 31) == 0);
}
