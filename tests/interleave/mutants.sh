#!/bin/sh
# mutants.sh - breaks the lock-free protocols one by one and sees whether the explorer notices.
#
# usage: tests/interleave/mutants.sh BUILD [NAME...]
#
# BUILD is where the program test-interleave was built. Each mutant is one source file changed by
# sed, compiled, linked with the rest, and must make the named test fail. Prints
# "N passed, M failed"; the exit status is 0 only if M is.
set -u
cd "$(dirname "$0")/../.." || exit 1
LC_ALL=C
export LC_ALL

build=$1
shift
wanted=${*:-}
cc=${CC:-gcc}
dir=$build/mutants
libraries=$(make -s print-libraries)
passed=0 failed=0
mkdir -p "$dir"

# $1: name, $2: source file, $3: test, $4: sed script, $5: what is broken
mutant()
{
  case " $wanted " in
  '  ' | *" $1 "*) ;;
  *) return ;;
  esac
  object=$(basename "$2" .c).o
  sed -e "$4" "$2" >"$dir/$(basename "$2")"
  if cmp -s "$2" "$dir/$(basename "$2")"; then
    echo "FAILED $1: the change no longer fits $2"
    failed=$((failed + 1))
    return
  fi
  cp "$build/libchimaera-modular.a" "$dir/lib.a"
  # shellcheck disable=SC2086
  if ! { "$cc" -std=c11 -O1 -w -DCHI_INTERLEAVE -DLANE_ENTRIES=2u -fPIC -pthread -Isources -Isim \
    -c "$dir/$(basename "$2")" -o "$dir/$object" && ar r "$dir/lib.a" "$dir/$object" &&
    "$cc" -rdynamic "$build"/tests/interleave/*.o "$build/libtest.a" -Wl,--whole-archive \
      "$dir/lib.a" -Wl,--no-whole-archive $libraries -o "$dir/test"; } >"$dir/log" 2>&1; then
    echo "FAILED $1: does not build"
    cat "$dir/log"
    failed=$((failed + 1))
    return
  fi
  if timeout 60 "$dir/test" "$3" >"$dir/log" 2>&1 || ! grep -q '^FAIL ' "$dir/log"; then
    echo "FAILED $1: $3 does not notice: $5"
    failed=$((failed + 1))
  else
    echo "caught $1: $5"
    passed=$((passed + 1))
  fi
}

# In the function that begins with this line; $2: sed command.
inside()
{
  printf '%s' "/^$1/,/^}/$2"
}

bell=sources/bell.c ring=sources/ring.c lane=sources/lane.c client=sources/client_task.c
worker=sources/worker.c accept=sources/worker_accept.c look=sources/worker_look.c
rest=sources/worker_sleep.c
sleeps=interleave_bell_two moves=interleave_node_new_home sleepy=interleave_node_round

mutant announce-fence $bell $sleeps "$(inside 'void bell_announce' '{/atomic_fence/d}')" \
  'no fence between announcing and looking once more'
mutant wanted-fence $bell $sleeps "$(inside 'bool bell_wanted(' '{/atomic_fence/d}')" \
  'no fence between publishing and looking who sleeps'
mutant wanted-once $bell $sleeps 's/word == atomic_get(last)/atomic_get(last) != 0/' \
  'only the first announcement is answered'
mutant announce-even $bell $sleeps \
  "$(inside 'void bell_announce' '{s/atomic_set(&b->word, word + 1)/(void)0/;s/CHI_ASSERT.*//}')
  $(inside 'void bell_withdraw' '{s/CHI_ASSERT.*//;s/word + 1/word + 2/}')" \
  'the sleep is not announced'
mutant put-turn-first $lane $sleeps "$(inside 'static inline void lane_publish' '{
    /atomic_set_release(&e->turn/d
    s/^  atomic_set(&e->ref, ref);/  atomic_set_release(\&e->turn, lane_turn(o->tail, op));\n&/
  }')" \
  'the turn of an entry is written before the entry'
mutant done-turn-first $lane $sleeps "$(inside 'void lane_done_push' '{
    /atomic_set_release(&d->turn/d
    s/^  atomic_set(&d->slot, slot);/  atomic_set_release(\&d->turn, (index >> in->shift) + 1);\n&/
  }')" \
  'the turn of a completion is written before the completion'
mutant done-index $lane $sleeps "$(inside 'void lane_done_push' '{
    s/atomic_add(&in->tail, 1);/atomic_get(\&in->tail);\n  atomic_set(\&in->tail, index + 1);/}')" \
  'two completions take the same place'
mutant take-early $lane interleave_lane "$(inside 'bool lane_take' '{
    /atomic_set_release(in->taken/d
    s/^  \*out = /  atomic_set_release(in->taken, head + 1);\n&/}')" \
  'an entry is given back before it was read'
mutant put-full $lane interleave_lane "$(inside 'static inline struct lane_entry \*lane_vacant' \
  '{s/return NULL/(void)0/}')" \
  'a full lane takes one more'
mutant home-fence $lane $moves "$(inside 'uint32_t lane_home' '{/atomic_fence/d}')" \
  'no fence between publishing and looking who is home'

mutant latch-two-steps $ring interleave_list \
  's/atomic_swap_fenced(&l->held, 1) == 0/(atomic_set(\&l->held, 1), true)/' \
  'a latch is taken in two steps'
mutant inbox-set $ring interleave_inbox "$(inside 'bool inbox_push' '{
    s/while (!atomic_cas(&b->top, &top, n));/while (0);\n  atomic_set(\&b->top, n);/}')" \
  'a sender overwrites another'
mutant inbox-take $ring interleave_inbox "$(inside 'struct ring_node \*inbox_take' '{
    s/newest = atomic_swap(&b->top, NULL)/newest = atomic_get(\&b->top)/
    s/^  while (newest) {/  atomic_set(\&b->top, NULL);\n&/}')" \
  'the receiver takes in two steps'
mutant pop-unlatched $ring interleave_list "$(inside 'struct ring_node \*ring_pop' '{
    s/latch_[a-z]*(&l->latch)/atomic_get(\&l->head)/}')" \
  'a list is popped without its latch'
mutant splice-tail $ring interleave_list "$(inside 'uint32_t ring_splice' '{/^  to->tail = /d}')" \
  'a list that was moved has no end'
mutant gate-forgets $ring interleave_gate 's/n ? (g->head ? 2u : 1u) : 0u/n ? 1u : 0u/' \
  'who leaves the gate forgets that others are queued'
mutant gate-unmarked $ring interleave_gate \
  's/atomic_swap(&g->state, 2) == 0/atomic_get(\&g->state) == 0/' \
  'who is queued at the gate does not say so'

mutant publish-size-first sources/shm.c interleave_shm "$(inside 'void shm_publish' '{
    /\.base = base/d
    s/^  atomic_set_release.*/&\n  atomic_fence();\n  t->chunk[chunk].base = base;/}')" \
  'a chunk is known before its address'
mutant abandon-unchecked sources/sync.c interleave_mutex \
  's/bool waiting = ctx->sync == h;/bool waiting = true;/' \
  'a task that was let in is taken out of the queue'
mutant forget-first sources/queue.c interleave_queue_ends "$(inside 'void queue_complete' '{
    /queue_forget/d
    s/^{/{\n  queue_forget(q, worker);/}')" \
  'a queue is touched after the last of its tasks has ended'
mutant hold-late $accept interleave_node_cancel "$(inside 'static inline bool worker_take(' '{
    /^  latch_unlock/d
    s/^  if (taken && \*op == LANE_RUN.*/  latch_unlock(\&l->latch);\n&/}')" \
  'a slot is marked after the latch was left'
mutant accept-unlatched $accept $moves "$(inside 'static inline bool worker_take(' '{
    s/!latch_try(&l->latch)/false/
    /latch_unlock/d}')" \
  'an entry is taken without the latch'

mutant pay-never $worker $sleepy "$(inside 'static inline void worker_settle' '{
    s/if (w->owed)/if (false)/}')" \
  'a client is not woken for the last of the completions in a row'
mutant pay-late $accept $sleepy "$(inside 'static inline bool worker_take(' '{
    /worker_pay_after_fence/d}')" \
  'a client is not woken while the next body runs'
mutant keep-forever $worker interleave_node_pool "$(inside 'static inline void worker_settle' '{
    s/if (w->kept)/if (false)/}')" \
  'a container that was kept is never left'
mutant no-last-look $rest interleave_node_round "$(inside 'bool worker_may_sleep' '{
    s/worker_has_work(w)/false/}')" \
  'a worker sleeps without a last look'
mutant no-ring-at-home $look $moves "$(inside 'void worker_home' '{/worker_ring/d}')" \
  'the new home of a lane is not woken'
mutant awake-fence $rest interleave_node_watching "$(inside 'void worker_awake' '{
    s/mark_set_fenced(&w->awake/mark_set(\&w->awake/}')" \
  'no fence between waking up and looking who watches'
mutant watch-fence sources/runtime.c interleave_node_watching \
  's/mark_set_fenced(&crew->watching, 0)/mark_set(\&crew->watching, 0)/' \
  'no fence between watching no more and looking who is awake'
mutant orphan $look interleave_node_open_where "$(inside 'uint32_t worker_relieve' '{
    s/if (n->kind == NODE_LANE)/if (false)/}')" \
  'a lane goes to a worker that is not its home'
mutant no-holders sources/session.c interleave_node_close \
  's/mark_get(&q->lane\[k\].holders) != 0/false/' \
  'a queue is freed while workers hold its lanes'
mutant client-no-last-look $client interleave_node_round "$(inside 'static int client_sleep' '{
    s/if (!lane_done_ready(&q->done))/if (true)/}')" \
  'a client sleeps without a last look'
mutant arm-no-last-look $client interleave_node_armed "$(inside 'int chi_queue_arm' '{
    s/if (!lane_done_ready(&q->done))/if (true)/}')" \
  'a queue is armed without a last look'

echo "$passed passed, $failed failed"
[ $failed = 0 ]
