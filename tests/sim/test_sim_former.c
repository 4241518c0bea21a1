/* test_sim_former.c - memory that was given back: who writes to it is found out. */
#include "sim_party.h"
#include "sim_world.h"
#include "test.h"

#if defined(__SANITIZE_ADDRESS__)
#define WATCHED true
#elif defined(__has_feature)
#define WATCHED __has_feature(address_sanitizer)
#else
#define WATCHED false
#endif

/* The failure after a block was given back, written to or not, and others after it. */
static void give_back(bool write, char text[100])
{
  struct sim_world world;
  struct sim_party party;
  unsigned char *volatile p;
  sim_world_init(&world, 1);
  sim_party_init(&party, &world, 3, 0);
  p = alloc_get(&party.env.alloc, 100);
  alloc_put(&party.env.alloc, p, 100);
  if (write)
    p[99] = 1;
  for (uint32_t i = 0; i < SIM_PARTY_FORMER; i++)
    alloc_put(&party.env.alloc, alloc_get(&party.env.alloc, 50), 50);
  snprintf(text, 100, "%.99s", world.failure);
  sim_party_fini(&party);
  sim_world_fini(&world);
}

TEST(sim_party_finds_writes_to_what_was_given_back)
{
  char text[100];
  if (WATCHED) {
    test_skip("the sanitizer watches that memory");
    return;
  }
  give_back(false, text);
  CHECK_STR(text, "");
  give_back(true, text);
  CHECK(strstr(text, "memory that was given back was written to") != NULL);
}
