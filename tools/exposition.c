/* exposition.c - writes the text format in which Prometheus reads metrics. */
#include "exposition.h"

#include <math.h>

#include "utf8.h"

void exposition_begin(struct exposition *e, const struct exposition_metric *metric)
{
  e->metric = metric;
  e->told = false;
}

/* In HELP a quote stands for itself, in a label it doesn't. */
static void exposition_escape(FILE *out, const char *text, bool quote)
{
  while (*text) {
    uint32_t code;
    size_t size = utf8_char(text, &code);
    if (*text == '\n')
      fputs("\\n", out);
    else if (*text == '\\' || (quote && *text == '"'))
      fprintf(out, "\\%c", *text);
    else if (size == 0 || utf8_is_control(code))
      fputc('?', out);
    else
      fwrite(text, 1, size, out);
    text += size ? size : 1;
  }
}

static void exposition_head(struct exposition *e)
{
  static const char *const types[] = {"counter", "gauge", "histogram", "untyped"};
  if (e->told)
    return;
  fprintf(e->out, "# HELP %s ", e->metric->name);
  exposition_escape(e->out, e->metric->help, false);
  fprintf(e->out, "\n# TYPE %s %s\n", e->metric->name, types[e->metric->type]);
  e->told = true;
}

static void exposition_label(FILE *out, const struct exposition_label *label, bool first)
{
  fprintf(out, "%s%s=\"", first ? "{" : ",", label->name);
  exposition_escape(out, label->value, true);
  fputc('"', out);
}

static void exposition_name(struct exposition *e, const char *suffix,
                            const struct exposition_label *labels)
{
  exposition_head(e);
  fprintf(e->out, "%s%s", e->metric->name, suffix);
  for (uint32_t i = 0; labels && labels[i].name; i++)
    exposition_label(e->out, &labels[i], i == 0);
  fputs(labels && labels->name ? "} " : " ", e->out);
}

void exposition_count(struct exposition *e, const char *suffix,
                      const struct exposition_label *labels, uint64_t value)
{
  exposition_name(e, suffix, labels);
  fprintf(e->out, "%llu\n", (unsigned long long)value);
}

void exposition_number(struct exposition *e, const char *suffix,
                       const struct exposition_label *labels, double value)
{
  exposition_name(e, suffix, labels);
  if (isnan(value))
    fputs("NaN\n", e->out);
  else if (isinf(value))
    fputs(value > 0 ? "+Inf\n" : "-Inf\n", e->out);
  else
    fprintf(e->out, "%.17g\n", value);
}

void exposition_seconds(struct exposition *e, const char *suffix,
                        const struct exposition_label *labels, uint64_t ns)
{
  char text[48];
  size_t end;
  snprintf(text, sizeof(text), "%llu.%09llu", (unsigned long long)(ns / 1000000000),
           (unsigned long long)(ns % 1000000000));
  end = strlen(text);
  while (text[end - 1] == '0')
    text[--end] = '\0';
  if (text[end - 1] == '.')
    text[end - 1] = '\0';
  exposition_name(e, suffix, labels);
  fprintf(e->out, "%s\n", text);
}
