/* latency.c - histograms of times, as admin.monitor writes them, added up and asked. */
#include "latency.h"

static void latency_count(struct latency *l, double end, double count)
{
  uint32_t i = l->used;
  while (i > 0 && l->bucket[i - 1].end > end)
    i--;
  if (i > 0 && l->bucket[i - 1].end == end) {
    l->bucket[i - 1].count += count;
    return;
  }
  if (l->used == LATENCY_BUCKETS)
    return;
  memmove(&l->bucket[i + 1], &l->bucket[i], (l->used - i) * sizeof(l->bucket[0]));
  l->bucket[i].end = end;
  l->bucket[i].count = count;
  l->used++;
}

void latency_add(struct latency *l, const struct json *object, int times)
{
  for (const struct json *pair = json_list(object, "latency"); pair; pair = pair->next) {
    const struct json *end = pair->kind == JSON_ARRAY ? pair->child : NULL;
    const struct json *count = end ? end->next : NULL;
    if (count && end->kind == JSON_NUMBER && count->kind == JSON_NUMBER && count->number >= 0)
      latency_count(l, end->number, count->number * times);
  }
}

double latency_below(const struct latency *l, double end)
{
  double n = 0;
  for (uint32_t i = 0; i < l->used && l->bucket[i].end <= end; i++)
    n += l->bucket[i].count > 0 ? l->bucket[i].count : 0;
  return n;
}

double latency_total(const struct latency *l)
{
  return latency_below(l, 1e300);
}

double latency_percentile(const struct latency *l, double share)
{
  double total = latency_total(l), n = 0;
  for (uint32_t i = 0; i < l->used && total > 0; i++) {
    n += l->bucket[i].count > 0 ? l->bucket[i].count : 0;
    if (n >= share * total)
      return l->bucket[i].end;
  }
  return 0;
}
