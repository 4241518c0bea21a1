/* station.h - for tests of the network: nodes' ends of it, stepped by the test itself. */
#ifndef CHI_TEST_STATION_H
#define CHI_TEST_STATION_H

#include "real_loop.h"
#include "real_net.h"
#include "wire.h"

#define STATION_PARCELS 4096
#define STATION_NUMBER_MAX (1u << 24) /* more is not one of ours */

/* One node's end. Its messages are numbered. */
struct station {
  struct real_env r;
  chi_config config; /* with the keys, if there are any */
  chi_host host[4];
  uint32_t hosts, self, port;
  int quiet;          /* a listener that nobody calls */
  bool open;          /* net_open has succeeded */
  uint32_t messages;  /* taken */
  uint32_t noise;     /* what strangers sent instead */
  uint32_t next;      /* the number that the next one must have */
  uint32_t wrong;     /* messages out of order, or with other bytes than they should have */
  uint64_t bytes;     /* of bulk taken */
  uint32_t greeted[4]; /* sound messages of a node, numbered or not */
  uint32_t ups[4], downs[4];
  bool up[4];
  uint32_t returned;  /* parcels */
  uint8_t parcel[STATION_PARCELS]; /* how often each came back */
  uint32_t count;     /* frames of the last message */
};

/* A port that nobody uses on this machine at the moment. */
uint32_t station_port(void);
/* A node of the list of addresses, ended by NULL. log: NULL, or the file for its log. What net_open
 * says. */
int station_open(struct station *s, const char *const *hosts, uint32_t self, uint32_t port,
                 const char *log, chi_error *err);
/* The same with keys: its secret one, and the directory of public ones. */
int station_open_locked(struct station *s, const char *const *hosts, uint32_t self, uint32_t port,
                        const char *log, const char *key_file, const char *directory,
                        chi_error *err);
void station_close(struct station *s);
/* Lets it do what there is to do. */
void station_turn(struct station *s);
/* Sends message `number` with a bulk frame of `size` bytes, if it isn't 0; the parcel has the same
 * number. */
int station_send(struct station *s, uint32_t to, uint32_t number, uint64_t size);
/* The bytes of all bulk, of which each message shows the beginning. */
const unsigned char *station_bulk(void);
#define STATION_BULK (16u << 20)

/* Turns one or two stations until the condition holds: true; false: not within so many ms. */
#define STATION_UNTIL(a, b, ms, cond)                                                              \
  __extension__({                                                                                  \
    uint64_t station_end = now_ns() + (ms)*MS_NS;                                                  \
    struct station *station_b = (b);                                                               \
    bool station_held = (cond);                                                                    \
    while (!station_held && now_ns() < station_end) {                                              \
      station_turn(a);                                                                             \
      if (station_b)                                                                               \
        station_turn(station_b);                                                                   \
      station_held = (cond);                                                                       \
    }                                                                                              \
    station_held;                                                                                  \
  })

#endif
