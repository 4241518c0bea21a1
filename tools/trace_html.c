/* trace_html.c - a simulated run as one page for a browser: a diagram of space and time. */
#include "trace_html.h"

#include "error.h"
#include "hash.h"
#include "utf8.h"

#include <inttypes.h>
#include <stdlib.h>

/* The page without its data, from tools/html/: see the Makefile. */
#include "html_page.inc"

#define TRACE_HTML_HOLE '\1' /* in a form: a number comes here */
#define TRACE_HTML_DIGITS 15 /* of a number that JavaScript holds exactly */

/* What events say, without the numbers in it: few, though there are many events. */
struct trace_html_form {
  int kind;
  enum trace_group group;
  char *text;
};
struct trace_html_forms {
  struct trace_html_form *form;
  uint32_t *place; /* open addressing, at most half full; a form's number + 1 */
  uint32_t count, room;
};

struct trace_html {
  FILE *out;
  const struct trace_page *page;
  struct trace_model model;
  struct trace_html_forms forms;
  uint32_t *form; /* of each record */
};

/* ---- forms ----------------------------------------------------------------------------------- */

/* Replaces each run of digits by a hole. */
static void trace_html_hollow(char *text)
{
  char *to = text;
  for (const char *at = text; *at;) {
    size_t digits = strspn(at, "0123456789");
    *to++ = digits ? TRACE_HTML_HOLE : *at;
    at += digits ? digits : 1;
  }
  *to = '\0';
}

static uint32_t trace_html_place(const struct trace_html_forms *f, int kind, const char *text)
{
  uint32_t mask = f->room * 2 - 1;
  uint32_t at = (uint32_t)hash_bytes(text, strlen(text), (uint32_t)kind) & mask;
  while (f->place[at]) {
    const struct trace_html_form *form = &f->form[f->place[at] - 1];
    if (form->kind == kind && strcmp(form->text, text) == 0)
      break;
    at = (at + 1) & mask;
  }
  return at;
}

static bool trace_html_grow(struct trace_html_forms *f)
{
  uint32_t room = f->room ? f->room * 2 : 256;
  struct trace_html_form *form = realloc(f->form, room * sizeof(*form));
  uint32_t *place = calloc(room * 2, sizeof(*place));
  f->form = form ? form : f->form;
  if (!form || !place) {
    free(place);
    return false;
  }
  free(f->place);
  f->place = place;
  f->room = room;
  for (uint32_t i = 0; i < f->count; i++)
    f->place[trace_html_place(f, form[i].kind, form[i].text)] = i + 1;
  return true;
}

static bool trace_html_intern(struct trace_html_forms *f, const struct sim_trace_event *event,
                              uint32_t *out)
{
  char text[TRACE_TEXT];
  trace_say(event, text);
  trace_html_hollow(text);
  if (f->count == f->room && !trace_html_grow(f))
    return false;
  uint32_t *place = &f->place[trace_html_place(f, event->kind, text)];
  if (!*place) {
    char *copy = strdup(text);
    if (!copy)
      return false;
    f->form[f->count++] = (struct trace_html_form){event->kind, trace_group(event), copy};
    *place = f->count;
  }
  *out = *place - 1;
  return true;
}

static bool trace_html_intern_all(struct trace_html *h)
{
  h->form = calloc(h->page->count ? h->page->count : 1, sizeof(*h->form));
  bool ok = h->form != NULL;
  for (uint32_t i = 0; ok && i < h->page->count; i++)
    ok = trace_html_intern(&h->forms, &h->page->record[i].event, &h->form[i]);
  return ok;
}

static void trace_html_forget(struct trace_html *h)
{
  for (uint32_t i = 0; i < h->forms.count; i++)
    free(h->forms.form[i].text);
  free(h->forms.form);
  free(h->forms.place);
  free(h->form);
  trace_model_close(&h->model);
}

/* ---- the data -------------------------------------------------------------------------------- */

static void trace_html_member(struct trace_html *h, const char *name, const char *text)
{
  fprintf(h->out, "\"%s\":", name);
  trace_put_string(h->out, text ? text : "");
  fputs(",\n", h->out);
}

/* Before each element of a list; lines stay short enough for an editor. */
static void trace_html_comma(FILE *out, uint32_t index)
{
  if (index > 0)
    fputs(index % 64 ? "," : ",\n", out);
}

static void trace_html_run(struct trace_html *h)
{
  const struct trace_page *p = h->page;
  trace_html_member(h, "title", p->title);
  trace_html_member(h, "spec", p->spec);
  fprintf(h->out, "\"seed\":\"%" PRIu64 "\",\"hash\":\"%016" PRIx64 "\",\n", p->seed, p->hash);
  fprintf(h->out, "\"events\":%" PRIu64 ",\"dropped\":%" PRIu64 ",\n", p->events, p->dropped);
  fprintf(h->out, "\"nodes\":%" PRIu32 ",\n\"failure\":", h->model.nodes);
  if (p->check) {
    fputs("{\"check\":", h->out);
    trace_put_string(h->out, p->check);
    fputs(",\"why\":", h->out);
    trace_put_string(h->out, p->why ? p->why : "");
    fprintf(h->out, ",\"event\":%" PRIu64 ",\"time\":%" PRIu64 "},\n", p->failed_event,
            p->failed_time);
  } else {
    fputs("null,\n", h->out);
  }
}

static void trace_html_put_forms(struct trace_html *h)
{
  fputs("\"forms\":[", h->out);
  for (uint32_t i = 0; i < h->forms.count; i++) {
    const struct trace_html_form *form = &h->forms.form[i];
    fprintf(h->out, "%s[%d,%d,", i ? ",\n" : "", (int)form->group, form->kind);
    trace_put_string(h->out, form->text);
    fputc(']', h->out);
  }
  fputs("],\n", h->out);
}

/* The numbers that fill the holes of a form; what JavaScript would round or shorten is a string. */
static void trace_html_values(struct trace_html *h, const struct sim_trace_event *event,
                              uint32_t *count)
{
  char text[TRACE_TEXT];
  trace_say(event, text);
  for (const char *at = text; *at;) {
    size_t digits = strspn(at, "0123456789");
    const char *quote = digits > TRACE_HTML_DIGITS || (digits > 1 && *at == '0') ? "\"" : "";
    if (digits) {
      trace_html_comma(h->out, (*count)++);
      fprintf(h->out, "%s%.*s%s", quote, (int)digits, at, quote);
    }
    at += digits ? digits : 1;
  }
}

enum trace_html_column { TRACE_HTML_NUMBER, TRACE_HTML_TIME, TRACE_HTML_NODE, TRACE_HTML_FORM };

/* Numbers and times as what they grow by. */
static int64_t trace_html_cell(const struct trace_html *h, enum trace_html_column column,
                               uint32_t i)
{
  const struct trace_record *r = &h->page->record[i];
  uint32_t node = trace_node(&r->event);
  switch (column) {
  case TRACE_HTML_NUMBER:
    return (int64_t)(r->number - (i ? r[-1].number : 0));
  case TRACE_HTML_TIME:
    return (int64_t)(r->event.time - (i ? r[-1].event.time : 0));
  case TRACE_HTML_NODE:
    return node < h->model.nodes ? (int64_t)node : -1;
  default:
    return h->form[i];
  }
}

static void trace_html_records(struct trace_html *h)
{
  static const char *const names[] = {"number", "time", "node", "form"};
  uint32_t count = 0;
  for (int column = TRACE_HTML_NUMBER; column <= TRACE_HTML_FORM; column++) {
    fprintf(h->out, "\"%s\":[", names[column]);
    for (uint32_t i = 0; i < h->page->count; i++) {
      trace_html_comma(h->out, i);
      fprintf(h->out, "%" PRId64, trace_html_cell(h, (enum trace_html_column)column, i));
    }
    fputs("],\n", h->out);
  }
  fputs("\"values\":[", h->out);
  for (uint32_t i = 0; i < h->page->count; i++)
    trace_html_values(h, &h->page->record[i].event, &count);
  fputs("],\n", h->out);
}

/* Places of records, -1 for none. */
static long trace_html_at(uint32_t at)
{
  return at == TRACE_NONE ? -1 : (long)at;
}

static void trace_html_arrows(struct trace_html *h)
{
  fputs("\"arrows\":[", h->out);
  for (uint32_t i = 0; i < h->model.arrows; i++) {
    const struct trace_arrow *a = &h->model.arrow[i];
    trace_html_comma(h->out, i);
    fprintf(h->out, "%ld,%ld,%" PRIu32 ",%" PRIu32 ",%d", trace_html_at(a->from),
            trace_html_at(a->to), a->sender, a->receiver, a->lost);
  }
  fputs("],\n", h->out);
}

/* [node, worker, "id", "key", pool, method, end, "result", phases as place and kind]. */
static void trace_html_task(struct trace_html *h, const struct trace_task *t)
{
  const char *rc = t->end == TRACE_NONE ? "" : chi_status_name(t->rc);
  fprintf(h->out, "[%" PRIu32 ",%" PRIu32 ",\"%" PRIu64 ":%" PRIu64 "\",", t->node, t->worker,
          t->id >> 32, t->id & UINT32_MAX);
  if (t->key_seq)
    fprintf(h->out, "\"node%" PRIu32 ".%" PRIu64 "/%" PRIu32 "\",", t->key_node, t->key_seq,
            t->key_container);
  else
    fputs("\"\",", h->out);
  fprintf(h->out, "%" PRIu32 ",%" PRIu32 ",%ld,", t->pool, t->method, trace_html_at(t->end));
  if (t->cut_off || t->rc <= 0)
    fprintf(h->out, "\"%s\",[", t->cut_off ? "ended with the node" : rc);
  else
    fprintf(h->out, "\"its own %d\",[", t->rc);
  for (uint32_t p = t->first; p != TRACE_NONE; p = h->model.phase[p].next)
    fprintf(h->out, "%s%" PRIu32 ",%d", p == t->first ? "" : ",", h->model.phase[p].record,
            h->model.phase[p].kind);
  fputs("]]", h->out);
}

static void trace_html_tasks(struct trace_html *h)
{
  fputs("\"tasks\":[", h->out);
  for (uint32_t i = 0; i < h->model.tasks; i++) {
    fputs(i ? ",\n" : "", h->out);
    trace_html_task(h, &h->model.task[i]);
  }
  fputs("],\n", h->out);
}

static void trace_html_bands(struct trace_html *h)
{
  fputs("\"bandNames\":[", h->out);
  for (int kind = TRACE_DOWN; kind <= TRACE_SCARCE; kind++) {
    trace_html_comma(h->out, (uint32_t)kind);
    trace_put_string(h->out, trace_band_name((enum trace_band_kind)kind));
  }
  fputs("],\n\"bands\":[", h->out);
  for (uint32_t i = 0; i < h->model.bands; i++) {
    const struct trace_band *b = &h->model.band[i];
    trace_html_comma(h->out, i);
    fprintf(h->out, "%d,%ld,%ld,%ld,%ld", b->kind, trace_html_at(b->node), trace_html_at(b->peer),
            trace_html_at(b->from), trace_html_at(b->to));
  }
  fputs("]", h->out);
}

static void trace_html_data(struct trace_html *h)
{
  fputs("{", h->out);
  trace_html_run(h);
  trace_html_put_forms(h);
  trace_html_records(h);
  trace_html_arrows(h);
  trace_html_tasks(h);
  trace_html_bands(h);
  fputs("}\n", h->out);
}

/* ---- the page -------------------------------------------------------------------------------- */

/* A text of the page itself. */
static void trace_html_escape(FILE *out, const char *text)
{
  while (*text) {
    uint32_t code;
    size_t size = utf8_char(text, &code);
    if (!size || utf8_is_control(code))
      fputc('?', out);
    else if (strchr("<>&\"", *text))
      fprintf(out, "&#%d;", *text);
    else
      fwrite(text, 1, size, out);
    text += size ? size : 1;
  }
}

/* The frame, with what belongs at its marks "@name@". */
static void trace_html_page(struct trace_html *h)
{
  const char *at = trace_html_frame;
  for (const char *mark; (mark = strchr(at, '@')); at = strchr(mark + 1, '@') + 1) {
    fwrite(at, 1, (size_t)(mark - at), h->out);
    if (strncmp(mark, "@title@", 7) == 0)
      trace_html_escape(h->out, h->page->title ? h->page->title : "A simulated run");
    else if (strncmp(mark, "@style@", 7) == 0)
      fputs(trace_html_style, h->out);
    else if (strncmp(mark, "@script@", 8) == 0)
      fputs(trace_html_script, h->out);
    else
      trace_html_data(h);
  }
  fputs(at, h->out);
}

int trace_html_write(FILE *out, const struct trace_page *page)
{
  struct trace_html h = {.out = out, .page = page};
  int rc = trace_model_open(&h.model, page);
  if (rc != CHI_OK)
    return rc;
  if (!trace_html_intern_all(&h))
    rc = CHI_ENOMEM;
  else
    trace_html_page(&h);
  trace_html_forget(&h);
  if (rc == CHI_OK && (fflush(out) != 0 || ferror(out)))
    rc = CHI_EIO;
  return rc;
}

#undef TRACE_HTML_HOLE
#undef TRACE_HTML_DIGITS
