/* station.c - for tests of the network: nodes' ends of it, stepped by the test itself. */
#include "station.h"
#include "scratch.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

static void station_on_link(void *arg, env_link link)
{
  (void)arg;
  (void)link;
}

static void station_on_connect(void *arg, env_link link, const struct env_peer *peer)
{
  (void)peer;
  station_on_link(arg, link);
}

static void station_on_request(void *arg, env_link link, const void *message, size_t size)
{
  (void)message;
  (void)size;
  station_on_link(arg, link);
}

static void station_on_awake(void *arg)
{
  (void)arg;
}

const unsigned char *station_bulk(void)
{
  static unsigned char bulk[STATION_BULK];
  if (bulk[1] == 0)
    for (uint32_t i = 0; i < STATION_BULK; i++)
      bulk[i] = (unsigned char)(i * 2654435761u >> 24);
  return bulk;
}

/* Sends a message as nodes do: one record, empty or with a number. */
static int station_say(struct station *s, uint32_t peer, const uint32_t *number, uint64_t size,
                       void *parcel)
{
  unsigned char bytes[WIRE_HEADER + WIRE_RECORD + sizeof(*number)];
  struct wire_header h = {.records = 1, .from = s->self, .to = peer, .from_boot = 1,
                          .bulk = size > 0, .bulk_bytes = size};
  struct env_frame frame[] = {{bytes, 0}, {station_bulk(), size}};
  struct wire_out out;
  wire_out_init(&out, bytes, sizeof(bytes));
  out.used = WIRE_HEADER;
  size_t begin = wire_record_begin(&out, WIRE_PROBE);
  if (number)
    wire_put_u32(&out, *number);
  wire_record_end(&out, begin, size > 0);
  wire_header_put(bytes, out.used, &h);
  frame[0].size = out.used;
  return s->r.env.net_send(&s->r.env, peer, frame, size ? 2 : 1, size ? parcel : NULL);
}

/* The number of a message; false: it has none, or isn't ours. Strangers say only a number. */
static bool station_number(struct station *s, const struct env_frame *frame, uint32_t count,
                           uint32_t *number)
{
  struct wire_header h;
  struct wire_in in;
  if (wire_header_get(frame, count, &h, &in) == CHI_OK) {
    (void)wire_get_bytes(&in, WIRE_RECORD);
    *number = wire_get_u32(&in);
    s->greeted[h.from]++;
    return !in.failed;
  }
  memcpy(number, frame[0].data, frame[0].size == sizeof(*number) ? sizeof(*number) : 0);
  bool ours = frame[0].size == sizeof(*number) && *number <= STATION_NUMBER_MAX;
  s->noise += !ours;
  return ours;
}

static void station_on_message(void *arg, const struct env_frame *frame, uint32_t count)
{
  struct station *s = arg;
  uint32_t number = 0;
  if (!station_number(s, frame, count, &number))
    return;
  s->messages++;
  s->count = count;
  s->wrong += number != s->next;
  s->next = number + 1;
  for (uint32_t i = 1; i < count; i++) {
    s->bytes += frame[i].size;
    s->wrong += frame[i].size > STATION_BULK ||
                memcmp(frame[i].data, station_bulk(), frame[i].size) != 0;
  }
}

static void station_on_peer(void *arg, uint32_t peer, bool connected)
{
  struct station *s = arg;
  if (s->up[peer] == connected)
    abort();
  s->up[peer] = connected;
  *(connected ? &s->ups[peer] : &s->downs[peer]) += 1;
  if (connected)
    station_say(s, peer, NULL, 0, NULL); /* others are taken from a node only after that */
}

static void station_on_sent(void *arg, void *parcel)
{
  struct station *s = arg;
  s->returned++;
  *(uint8_t *)parcel += 1;
}

uint32_t station_port(void)
{
  struct sockaddr_in any = {.sin_family = AF_INET};
  socklen_t size = sizeof(any);
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  bind(fd, (struct sockaddr *)&any, size);
  getsockname(fd, (struct sockaddr *)&any, &size);
  close(fd);
  return ntohs(any.sin_port);
}

int station_open(struct station *s, const char *const *hosts, uint32_t self, uint32_t port,
                 const char *log, chi_error *err)
{
  return station_open_locked(s, hosts, self, port, log, "", "", err);
}

int station_open_locked(struct station *s, const char *const *hosts, uint32_t self, uint32_t port,
                        const char *log, const char *key_file, const char *directory,
                        chi_error *err)
{
  const struct real_loop_owner links = {s, station_on_connect, station_on_request, station_on_link,
                                        station_on_awake};
  const struct real_net_owner owner = {s, station_on_message, station_on_peer, station_on_sent};
  *s = (struct station){.self = self, .port = port};
  chi_config_init(&s->config);
  snprintf(s->config.key_file, sizeof(s->config.key_file), "%s", key_file);
  snprintf(s->config.authorized_keys, sizeof(s->config.authorized_keys), "%s", directory);
  for (; hosts[s->hosts]; s->hosts++) {
    snprintf(s->host[s->hosts].name, CHI_NAME_MAX, "node%u", s->hosts);
    snprintf(s->host[s->hosts].address, CHI_NAME_MAX, "%s", hosts[s->hosts]);
  }
  s->quiet = eventfd(0, EFD_CLOEXEC);
  if (real_env_open(&s->r, log ? log : "/dev/null") != CHI_OK ||
      real_loop_open(&s->r, s->quiet, 1, &links) != CHI_OK ||
      real_net_bind(&s->r, &owner, &s->config) != CHI_OK)
    abort();
  int rc = s->r.env.net_open(&s->r.env, s->host, s->hosts, self, port, err);
  s->open = rc == CHI_OK;
  return rc;
}

void station_close(struct station *s)
{
  if (s->open)
    s->r.env.net_close(&s->r.env);
  s->open = false;
  real_net_unbind(&s->r);
  real_loop_close(&s->r);
  real_env_close(&s->r);
  close(s->quiet);
}

void station_turn(struct station *s)
{
  if (!s->open)
    return;
  if (real_net_turn(&s->r))
    real_loop_poll(s->r.loop);
  else
    real_loop_sleep(s->r.loop, s->r.env.clock(&s->r.env) + 200000);
}

int station_send(struct station *s, uint32_t to, uint32_t number, uint64_t size)
{
  return station_say(s, to, &number, size, size ? &s->parcel[number % STATION_PARCELS] : NULL);
}
