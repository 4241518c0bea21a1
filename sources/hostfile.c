/* hostfile.c - the nodes of a cluster, from the text of a hostfile. */
#include "hostfile.h"

#include "config.h"

#include <stdio.h>

#define HOSTFILE_PATTERN_MAX 1024 /* bytes: bounds the work for each name that comes out of it */
#define HOSTFILE_DIGITS_MAX 9     /* of a number in a range */

struct hostfile {
  chi_config *config;
  struct report *report;
  struct report_mark *marks; /* where each host was written */
  uint32_t room;             /* of marks */
  bool over;                 /* no use to read on */
};

/* A column of a line, [text, end): patterns separated by ";". Walked by hostfile_next. */
struct hostfile_column {
  const char *text, *end;
  struct report_mark at;
  uint32_t total;            /* names that come out of it */
  const char *group, *limit; /* the pattern being expanded */
  uint32_t index, count;     /* its next name, its names */
};

/* One item between the commas of a range: numbers from low to high in at least `width` digits. */
struct hostfile_item {
  uint32_t low, high;
  int width;
};

static bool hostfile_is_digit(char c)
{
  return c >= '0' && c <= '9';
}

static char hostfile_lower(char c)
{
  return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static bool hostfile_is_name_char(char c)
{
  char lower = hostfile_lower(c);
  return hostfile_is_digit(c) || (lower >= 'a' && lower <= 'z') || (c && strchr(".-_:%", c));
}

/* Where c is first in [p, end); end if it is not there. */
static const char *hostfile_find(const char *p, const char *end, char c)
{
  while (p < end && *p != c)
    p++;
  return p;
}

static struct report_mark hostfile_mark(const struct hostfile_column *c, const char *p)
{
  return (struct report_mark){c->at.line, c->at.column + (int)(p - c->text)};
}

/* ---- patterns --------------------------------------------------------------------------- */

/* Reads the digits at p and gives how many there are; 0 if none or too many. */
static size_t hostfile_digits(const char *p, const char *end, uint32_t *value)
{
  size_t n = 0;
  *value = 0;
  for (; p + n < end && hostfile_is_digit(p[n]); n++) {
    if (n == HOSTFILE_DIGITS_MAX)
      return 0;
    *value = *value * 10 + (uint32_t)(p[n] - '0');
  }
  return n;
}

/* Reads "7", "07" or "00-09" at p and gives what follows, NULL if it is malformed. Leading zeros
 * pad all numbers of the item to that width, so the upper end may not have others. */
static const char *hostfile_item(const char *p, const char *end, struct hostfile_item *item)
{
  size_t low = hostfile_digits(p, end, &item->low), high;
  if (!low)
    return NULL;
  item->high = item->low;
  item->width = low > 1 && *p == '0' ? (int)low : 0;
  p += low;
  if (p == end || *p != '-')
    return p;
  high = hostfile_digits(++p, end, &item->high);
  if (high < low || item->high < item->low)
    return NULL;
  if (high > low && *p == '0')
    return NULL;
  return p + high;
}

/* Counts the numbers of the range at p, which begins with "[". Gives its "]", or NULL and in *bad
 * where it is malformed. Counts no further than just beyond CONFIG_HOSTS_MAX. */
static const char *hostfile_range(const char *p, const char *end, uint32_t *count, const char **bad)
{
  struct hostfile_item item;
  uint64_t total = 0;
  do {
    const char *next = hostfile_item(p + 1, end, &item);
    if (!next || next == end || (*next != ',' && *next != ']')) {
      *bad = p + 1;
      return NULL;
    }
    total += (uint64_t)item.high - item.low + 1;
    p = next;
  } while (*p != ']');
  *count = total > CONFIG_HOSTS_MAX ? CONFIG_HOSTS_MAX + 1 : (uint32_t)total;
  return p;
}

/* Writes number `index` of the range at p, which is well-formed and has it. Gives its length, also
 * if there is less room. */
static size_t hostfile_pick(const char *p, const char *end, uint32_t index, char *out, size_t size)
{
  struct hostfile_item item;
  for (;;) {
    p = hostfile_item(p + 1, end, &item);
    CHI_ASSERT(p && p < end);
    if (index <= item.high - item.low)
      break;
    index -= item.high - item.low + 1;
  }
  return (size_t)snprintf(out, size, "%0*u", item.width, item.low + index);
}

/* "[::1]" is an IPv6 address in brackets and not a range: takes the brackets off. */
static void hostfile_unwrap(const char **p, const char **end)
{
  size_t n = (size_t)(*end - *p);
  if (n > 2 && **p == '[' && (*end)[-1] == ']' && hostfile_find(*p, *end, ':') < *end &&
      hostfile_find(*p + 1, *end, '[') == *end) {
    ++*p;
    --*end;
  }
}

/* Counts the names of the pattern [p, end), no further than just beyond CONFIG_HOSTS_MAX; 0, and in
 * *bad where, if it is malformed. */
static uint32_t hostfile_count(const char *p, const char *end, const char **bad)
{
  uint64_t total = 1;
  *bad = p;
  if (p == end || end - p > HOSTFILE_PATTERN_MAX)
    return 0;
  hostfile_unwrap(&p, &end);
  for (; p < end; p++) {
    uint32_t count = 1;
    *bad = p;
    if (*p == '[')
      p = hostfile_range(p, end, &count, bad);
    else if (!hostfile_is_name_char(*p))
      return 0;
    if (!p)
      return 0;
    total *= count;
    if (total > CONFIG_HOSTS_MAX)
      total = CONFIG_HOSTS_MAX + 1;
  }
  return (uint32_t)total;
}

/* Name number `index` of a well-formed pattern with `count` names: its last range runs fastest.
 * False if it does not fit. */
static bool hostfile_expand(const char *p, const char *end, uint32_t index, uint32_t count,
                            char *out, size_t size)
{
  size_t used = 0;
  hostfile_unwrap(&p, &end);
  for (; p < end && used < size; p++) {
    const char *bad;
    uint32_t range;
    if (*p != '[') {
      out[used++] = *p;
      continue;
    }
    const char *close = hostfile_range(p, end, &range, &bad);
    CHI_ASSERT(close && range && count % range == 0);
    count /= range;
    used += hostfile_pick(p, end, index / count, out + used, size - used);
    index %= count;
    p = close;
  }
  if (used >= size)
    return false;
  out[used] = '\0';
  return true;
}

/* ---- columns ---------------------------------------------------------------------------- */

static void hostfile_malformed(struct hostfile *h, const struct hostfile_column *c, const char *bad,
                               const char *limit)
{
  const char *problem = "unexpected character in a name or an address";
  if (bad > c->text && (bad[-1] == '[' || bad[-1] == ','))
    problem = "expected a range such as [0-9] or [00-09,12]";
  else if (bad == limit)
    problem = "expected a name or an address";
  else if (limit - bad > HOSTFILE_PATTERN_MAX)
    problem = "a name of more than 1024 bytes";
  report_error(h->report, hostfile_mark(c, bad), CHI_ECONFIG, "%s", problem);
}

/* Checks a column and counts its names; false after complaining. */
static bool hostfile_measure(struct hostfile *h, struct hostfile_column *c)
{
  const char *p = c->text;
  c->total = 0;
  for (;;) {
    const char *bad, *limit = hostfile_find(p, c->end, ';');
    uint32_t count = hostfile_count(p, limit, &bad);
    if (!count) {
      hostfile_malformed(h, c, bad, limit);
      return false;
    }
    c->total = count + c->total > CONFIG_HOSTS_MAX ? CONFIG_HOSTS_MAX + 1 : count + c->total;
    if (limit == c->end)
      break;
    p = limit + 1;
  }
  c->group = c->text;
  c->limit = hostfile_find(c->text, c->end, ';');
  c->index = 0;
  c->count = hostfile_count(c->group, c->limit, &p);
  return true;
}

/* The next name of a measured column that has one; false if it is too long. */
static bool hostfile_next(struct hostfile_column *c, char *out, size_t size)
{
  const char *bad;
  if (c->index == c->count) {
    CHI_ASSERT(c->limit < c->end);
    c->group = c->limit + 1;
    c->limit = hostfile_find(c->group, c->end, ';');
    c->index = 0;
    c->count = hostfile_count(c->group, c->limit, &bad);
  }
  return hostfile_expand(c->group, c->limit, c->index++, c->count, out, size);
}

/* ---- addresses -------------------------------------------------------------------------- */

static bool hostfile_is_ipv4(const char *text)
{
  for (int part = 0; part < 4; part++) {
    uint32_t value;
    size_t digits = hostfile_digits(text, text + strlen(text), &value);
    if (!digits || digits > 3 || value > 255)
      return false;
    text += digits;
    if (*text++ != (part < 3 ? '.' : '\0'))
      return false;
  }
  return true;
}

/* Not exact: what the system makes of an address shows when it is used. Here it is only made sure
 * that a slip of the pen, or a port, is noticed where it was written. */
static const char *hostfile_address_problem(const char *text)
{
  size_t colons = 0;
  for (const char *p = text; *p; p++)
    colons += *p == ':';
  if (colons) {
    size_t n = strcspn(text, "%");
    if (colons == 1)
      return "a port does not belong here; networking.port holds for all nodes";
    return strspn(text, "0123456789abcdefABCDEF:.") < n ? "not an IPv6 address" : NULL;
  }
  if (strchr(text, '%'))
    return "unexpected character in a name or an address";
  if (strspn(text, "0123456789.") == strlen(text) && !hostfile_is_ipv4(text))
    return "not an IPv4 address";
  return NULL;
}

/* ---- lines ------------------------------------------------------------------------------ */

static bool hostfile_add(struct hostfile *h, const char *name, const char *address,
                         struct report_mark at)
{
  uint32_t n = h->config->host_count;
  if (n == h->room) {
    uint32_t room = n ? n * 2 : 64;
    struct report_mark *grown = config_memory(h->marks, room * sizeof(*grown));
    if (!grown)
      return false;
    h->marks = grown;
    h->room = room;
  }
  h->marks[n] = at;
  return chi_config_add_host(h->config, name, address) == CHI_OK;
}

/* Adds the next host of a line; false if there is no use in going on with the line. */
static bool hostfile_host(struct hostfile *h, struct hostfile_column *names,
                          struct hostfile_column *addresses)
{
  char name[CHI_NAME_MAX], address[CHI_NAME_MAX];
  const char *problem;
  bool fits = hostfile_next(names, name, sizeof(name));
  if (addresses == names)
    memcpy(address, name, sizeof(address));
  else
    fits = hostfile_next(addresses, address, sizeof(address)) && fits;
  if (!fits) {
    report_error(h->report, names->at, CHI_ECONFIG, "a name of more than %d bytes",
                 CHI_NAME_MAX - 1);
    return false;
  }
  problem = hostfile_address_problem(address);
  if (problem) {
    report_error(h->report, addresses->at, CHI_ECONFIG, "\"%.80s\": %s", address, problem);
    return false;
  }
  if (!hostfile_add(h, name, address, names->at)) {
    report_error(h->report, names->at, CHI_ENOMEM, "out of memory");
    h->over = true;
  }
  return !h->over;
}

static void hostfile_hosts(struct hostfile *h, struct hostfile_column *names,
                           struct hostfile_column *addresses)
{
  if (!hostfile_measure(h, names) || (addresses != names && !hostfile_measure(h, addresses)))
    return;
  if (names->total > CONFIG_HOSTS_MAX - h->config->host_count) {
    report_error(h->report, names->at, CHI_ECONFIG, "more than %d hosts", CONFIG_HOSTS_MAX);
    h->over = true;
    return;
  }
  if (names->total != addresses->total) {
    report_error(h->report, addresses->at, CHI_ECONFIG, "%u addresses for %u names",
                 addresses->total, names->total);
    return;
  }
  for (uint32_t i = 0; i < names->total; i++) {
    if (!hostfile_host(h, names, addresses))
      return;
  }
}

static bool hostfile_is_blank(char c)
{
  return c == ' ' || c == '\t';
}

/* Reads the line [p, end), without its line break and comment. */
static void hostfile_line(struct hostfile *h, const char *p, const char *end, int line)
{
  struct hostfile_column columns[3];
  const char *start = p;
  size_t count = 0;
  while (p < end && count < CHI_COUNT(columns)) {
    struct hostfile_column *c = &columns[count];
    while (p < end && hostfile_is_blank(*p))
      p++;
    c->text = p;
    c->at = (struct report_mark){line, (int)(p - start) + 1};
    while (p < end && !hostfile_is_blank(*p))
      p++;
    c->end = p;
    count += c->end > c->text;
  }
  if (count > 2)
    report_error(h->report, columns[2].at, CHI_ECONFIG,
                 "expected a name and an address, found a third column");
  else if (count)
    hostfile_hosts(h, &columns[0], &columns[count - 1]);
}

/* ---- doubles ---------------------------------------------------------------------------- */

static bool hostfile_same(const char *a, const char *b)
{
  while (*a && hostfile_lower(*a) == hostfile_lower(*b))
    a++, b++;
  return hostfile_lower(*a) == hostfile_lower(*b);
}

static uint32_t hostfile_hash(const char *text)
{
  uint32_t hash = 2166136261u;
  for (; *text; text++)
    hash = (hash ^ (unsigned char)hostfile_lower(*text)) * 16777619u;
  return hash ^ hash >> 15;
}

/* Complains of hosts with an address, or a name, that an earlier one has. `slots` has room for at
 * least twice as many numbers as there are hosts; their count is a power of two. */
static void hostfile_doubles(struct hostfile *h, uint32_t *slots, uint32_t count, bool by_address)
{
  const chi_host *hosts = h->config->hosts;
  memset(slots, 0, count * sizeof(*slots));
  for (uint32_t i = 0; i < h->config->host_count; i++) {
    const char *key = by_address ? hosts[i].address : hosts[i].name;
    uint32_t at = hostfile_hash(key) & (count - 1);
    const chi_host *other = NULL;
    while (slots[at] && !other) {
      const chi_host *host = &hosts[slots[at] - 1];
      if (hostfile_same(by_address ? host->address : host->name, key))
        other = host;
      else
        at = (at + 1) & (count - 1);
    }
    if (!other)
      slots[at] = i + 1;
    else if (by_address || !hostfile_same(other->address, hosts[i].address))
      report_error(h->report, h->marks[i], CHI_ECONFIG,
                   "%s \"%s\" is given twice, first in line %d", by_address ? "address" : "name",
                   key, h->marks[other - hosts].line);
  }
}

static void hostfile_check(struct hostfile *h)
{
  uint32_t count = 16, *slots;
  while (count < 2 * h->config->host_count)
    count *= 2;
  slots = config_memory(NULL, count * sizeof(*slots));
  if (!slots) {
    report_error(h->report, (struct report_mark){0, 0}, CHI_ENOMEM, "out of memory");
    return;
  }
  hostfile_doubles(h, slots, count, true);
  hostfile_doubles(h, slots, count, false);
  config_memory(slots, 0);
}

CHI_PRIVATE void hostfile_parse(chi_config *config, const char *text, size_t size,
                                struct report *report)
{
  struct hostfile h = {.config = config, .report = report};
  const char *p = text, *end = text + size;
  uint32_t errors = report->errors;
  config_drop_hosts(config);
  if (size >= 3 && memcmp(p, "\xef\xbb\xbf", 3) == 0)
    p += 3; /* a byte order mark */
  for (int line = 1; p < end && !h.over && !report_gave_up(report); line++) {
    const char *next = hostfile_find(p, end, '\n'), *stop = next;
    if (stop > p && stop[-1] == '\r')
      stop--;
    hostfile_line(&h, p, hostfile_find(p, stop, '#'), line);
    p = next < end ? next + 1 : end;
  }
  if (config->host_count)
    hostfile_check(&h);
  else if (report->errors == errors)
    report_error(report, (struct report_mark){0, 0}, CHI_ECONFIG, "no hosts in it");
  config_memory(h.marks, 0);
}

#undef HOSTFILE_PATTERN_MAX
#undef HOSTFILE_DIGITS_MAX
