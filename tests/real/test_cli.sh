#!/bin/bash
# test_cli.sh - every command of the program, used well and used badly.
#
# Needs CHIMAERA, the program; closes with the counts.
set -u
LC_ALL=C
export LC_ALL
here=$(cd "$(dirname "$0")/../.." && pwd)
: "${CHIMAERA:=$here/build/gcc-amalgam/chimaera}"
if ! [ -x "$CHIMAERA" ]; then
  echo "$CHIMAERA: is not there; make builds it, or set CHIMAERA" >&2
  exit 1
fi
: "${CC:=cc}"
temp=$(mktemp -d "${TMPDIR:-/var/tmp}/chimaera-cli-XXXXXX") || exit 1
name=cli_$$ port=$((20000 + $$ % 20000))
# shellcheck source=tests/real/shell.sh
. "$here/tests/real/shell.sh"
CHI_SERVER_CONF=$temp/node.yaml
export CHI_SERVER_CONF
unset NOTIFY_SOCKET CHI_MODULE_PATH

# shellcheck disable=SC2317
finish()
{
  local file
  for file in "$temp/pid" "$temp"/bench[01].pid; do
    [ ! -s "$file" ] || kill -9 "$(cat "$file")" 2>/dev/null
  done
  rm -rf "$temp"
}
trap finish EXIT

start()
{
  chi start --detach --pid-file "$temp/pid" "$@"
}

# Starts a daemon in the foreground of a job, $pid, and waits until it is ready.
foreground()
{
  local i
  rm -f "$temp/ready"
  "$CHIMAERA" start "$@" >"$temp/ready" 2>"$temp/complaint" &
  pid=$!
  for ((i = 0; i < 200; i++)); do
    ! grep -q ready "$temp/ready" 2>/dev/null || return 0
    sleep 0.05
  done
  return 1
}

# Waits until a task of pool 600.0 is under way.
working()
{
  local i
  for ((i = 0; i < 100; i++)); do
    ! "$CHIMAERA" status --json | grep -q '"id":"600.0"[^[]*"tasks":[1-9]' || return 0
    sleep 0.05
  done
  return 1
}

# Starts a daemon that a task of $1 is under way in.
napping()
{
  start
  want 0
  chi compose "$temp/odd.yaml"
  want 0
  "$CHIMAERA" call odd nap time="$1" >"$temp/nap" 2>&1 &
  ok working
}

cat >"$temp/node.yaml" <<END
networking: {port: $port}
shared_memory: {main_segment_name: $name}
logging: {file: $temp/log}
compose:
- mod_name: bdev
  pool_name: ram
  pool_query: local
  pool_id: "300.0"
  bdev_type: ram
  capacity: 16M
END

# ---- without a daemon --------------------------------------------------------------------------

chi
want 2 '^usage: chimaera COMMAND'
chi --help
want 0 '^  start  '
chi help stop
want 0 '^usage: chimaera stop'
chi strat
want 2 'no command "strat"; nearest is start'
for command in start stop status top compose call put get bench calibrate config keygen metrics \
  version; do
  chi $command --help
  want 0 "^usage: chimaera $command" '^Options:' '^  --help'
  chi $command --no-such-option
  want 2 "^chimaera $command: no option --no-such-option" "Try 'chimaera $command --help'"
done
chi status --jso
want 2 'no option --jso; nearest is --json'
chi status --json=yes
want 2 '--json takes no value'
chi status --instance
want 2 '--instance needs a value'
chi status -x
want 2 'no option -x'
for command in status stop top 'compose x.yaml' 'call 1.0' 'put /etc/passwd 300.0'; do
  # shellcheck disable=SC2086
  chi $command --instance "$name:$port"
  [ "$command" = 'compose x.yaml' ] || want 1 "^chimaera .*: no daemon"
done
chi version
want 0 '^chimaera [0-9]' '^libyaml' '^compiler'
chi version --json
want 0 '^{"chimaera":"[0-9.]*","libyaml":"[0-9.]*",.*}$'
chi --version
want 0 '^chimaera [0-9]'
chi version extra
want 2 'takes no arguments'
ok not sh -c "'$CHIMAERA' version >/dev/full"

# ---- config ------------------------------------------------------------------------------------

chi config
want 0 "port: $port" "main_segment_name: \"$name\""
cp "$temp/out" "$temp/printed.yaml"
chi config --check "$temp/printed.yaml"
want 0
ok diff "$temp/printed.yaml" "$temp/out"
chi config --file "$temp/node.yaml" --json
want 0 "\"port\":$port" '"mod_name":"bdev"' '"capacity":"16M"'
ok test "$(sed /^compose/q "$temp/printed.yaml" | grep -c "^  [# ]*[a-z_]*: ")" = \
  "$(sed 's/.*"values":{\([^}]*\)}.*/\1/' "$temp/out" | grep -o '"[a-z_]*":' | wc -l)"
printf 'workers:\n  shed_threads: 2\nnetworking:\n  port: 700000\n' >"$temp/bad.yaml"
chi config --check "$temp/bad.yaml"
want 1 'bad.yaml:2:3: .*shed_threads.*sched_threads' 'bad.yaml:4:9: .*port'
chi config --check "$temp/no-such.yaml"
want 1 'no-such.yaml'
ok test "$(grep -c no-such.yaml "$temp/err")" = 1
chi config --check a --file b
want 2
chi config stray
want 2

# ---- start and stop ----------------------------------------------------------------------------

chi start --config "$temp/bad.yaml" --detach
want 1 'bad.yaml:2:3:' 'the configuration is not valid'
chi start --log-level loud
want 2 'expected debug, info, warning or error'
chi start --grace soon
want 2 '--grace soon: expected a whole number'
chi start --instance "x:y"
want 2 'expected NAME:PORT'
chi start --detach --pid-file "$temp/no/such/pid"
want 1 'no/such/pid'
chi stop
want 1 'no daemon'
start
want 0 "^chimaera: ready: instance $name:$port, [1-9] fast + [1-9] slow workers, 2 pools$"
ok kill -0 "$(cat "$temp/pid")"
chi start --detach
want 1 "$name:$port"
chi stop soon
want 2 'expected milliseconds'
chi stop 1 2
want 2
pid=$(cat "$temp/pid")
chi stop
want 0 '^stopped after'
ok gone "$pid"
ok not test -e "$temp/pid"
for text in serving stopped; do # each life is a part of the log
  ok grep -q " info node=0 $text: instance $name:$port, version .*, process $pid\$" "$temp/log"
done
ok grep -q ' info node=0 stopping; tasks under way: 1$' "$temp/log"
start --instance "$name:$((port + 1))"
want 0 "instance $name:$((port + 1)),"
chi stop --instance "$name:$((port + 1))" 2000
want 0

# In the foreground: one line, and a signal ends it.
foreground
ok grep -q "^chimaera: ready: instance $name:$port" "$temp/ready"
kill -TERM $pid
wait $pid
status=$?
want 0
ok test "$(wc -l <"$temp/ready")" = 1

# ---- a module that behaves badly ---------------------------------------------------------------

cat >"$temp/odd.c" <<'END'
#include "chimaera.h"
#include <string.h>
struct odd {
  int unused;
};
#define ODD_NAP(X, T) X(T, IN, duration, time, "10s")
CHI_TASK(odd_nap, 10, ODD_NAP)
CHI_TASK(odd_spin, 11, CHI_NO_FIELDS)
#define ODD_CODE(X, T) X(T, IN, i32, code) X(T, INOUT, str, text, 16, "none")
CHI_TASK(odd_code, 12, ODD_CODE)
#define ODD_SWAP(X, T) X(T, IN, bulk, from) X(T, OUT, bulk, to)
CHI_TASK(odd_swap, 13, ODD_SWAP)
static int odd_nap_run(chi_ctx *ctx, struct odd *self, struct odd_nap *t)
{
  (void)self;
  return chi_sleep(ctx, t->time);
}
static int odd_spin_run(chi_ctx *ctx, struct odd *self, struct odd_spin *t)
{
  volatile int go = 1;
  (void)ctx, (void)self, (void)t;
  while (go)
    ;
  return CHI_OK;
}
static int odd_code_run(chi_ctx *ctx, struct odd *self, struct odd_code *t)
{
  (void)ctx, (void)self;
  strcpy(t->text, "\"\x1b[2J\n");
  return t->code;
}
static int odd_swap_run(chi_ctx *ctx, struct odd *self, struct odd_swap *t)
{
  uint64_t n = t->from.size < t->to.size ? t->from.size : t->to.size;
  (void)ctx, (void)self;
  for (uint64_t i = 0; i < n; i++)
    ((char *)t->to.data)[i] = ((char *)t->from.data)[n - 1 - i];
  return CHI_OK;
}
CHI_TASK(odd_deep, 14, CHI_NO_FIELDS)
static int odd_dig(volatile char *above)
{
  volatile char here[1024];
  here[0] = *above;
  return above[0] == 1 ? 0 : odd_dig(here) + here[0];
}
static int odd_deep_run(chi_ctx *ctx, struct odd *self, struct odd_deep *t)
{
  char zero = 0;
  (void)ctx, (void)self, (void)t;
  return odd_dig(&zero);
}
static int odd_create(chi_ctx *ctx, void *state, const void *params)
{
  (void)state, (void)params;
  return strcmp(chi_self_pool_name(ctx), "hangs") ? CHI_OK : chi_sleep(ctx, 60000000000u);
}
#define ODD_METHODS(M, S) \
  M(S, odd_nap) M(S, odd_spin) M(S, odd_code) M(S, odd_swap) M(S, odd_deep)
CHI_METHODS(odd, ODD_METHODS)
static const chi_module odd_module = {.version = CHI_MODULE_VERSION, .name = "odd",
  .state_size = sizeof(struct odd), .methods = odd_methods, .flags = CHI_MODULE_PARALLEL,
  .create = odd_create};
const chi_module *chi_module_entry(void)
{
  return &odd_module;
}
END
ok "$CC" -O2 -Wall -Wextra -shared -fPIC -I"$here/sources" "$temp/odd.c" -o "$temp/odd.so"
CHI_MODULE_PATH=$temp
export CHI_MODULE_PATH
cat >"$temp/odd.yaml" <<END
compose:
- {mod_name: odd, pool_name: odd, pool_query: local, pool_id: "600.0"}
END

# ---- pools that take too long ------------------------------------------------------------------

# $1: how it is asked to stop; the daemon is $pid. Its pools are not there, and will not be.
stops_while_starting()
{
  local i began=$SECONDS
  CHI_SERVER_CONF=$temp/hangs.yaml "$CHIMAERA" start --grace 200 --pid-file "$temp/pid" \
    >"$temp/out" 2>&1 &
  pid=$!
  for ((i = 0; i < 100; i++)); do
    ! grep -q "pool 300.0 (ram)" "$temp/log.hangs" 2>/dev/null || break
    sleep 0.05
  done
  sleep 0.2
  "$@" >/dev/null
  wait $pid
  status=$?
  ok test $((SECONDS - began)) -lt 20
  want 1 '^chimaera start: asked to stop before it served$'
  ok not grep -q ready "$temp/out"
  ok not test -e "$temp/pid"
}

by_signal()
{
  kill -TERM $pid
}

{
  sed "s|$temp/log|$temp/log.hangs|" "$temp/node.yaml"
  echo '- {mod_name: odd, pool_name: hangs, pool_query: local, pool_id: "601.0"}'
} >"$temp/hangs.yaml"
stops_while_starting by_signal
stops_while_starting "$CHIMAERA" stop 100

# ---- which node of the hostfile ----------------------------------------------------------------

printf '127.0.0.1\n127.0.0.2\n' >"$temp/hosts"
sed "s|{port: $port}|{port: $port, hostfile: $temp/hosts, wait_for_restart: 200ms}|" \
  "$temp/node.yaml" >"$temp/two.yaml"
chi start --config "$temp/two.yaml" --detach
want 1 'several nodes .* 0 (127.0.0.1), 1 (127.0.0.2); say which it is by --node or CHI_NODE'
chi start --config "$temp/two.yaml" --detach --node 2
want 1 'node 2: the hostfile has fewer nodes'
chi start --config "$temp/two.yaml" --detach --node first
want 2 '--node first: expected a whole number'
chi start --detach --node 1
want 1 'node 1: there is no hostfile'
CHI_NODE=one chi start --config "$temp/two.yaml" --detach
want 1 'CHI_NODE: expected a node'
CHI_NODE=0 chi start --config "$temp/two.yaml" --detach --node 1
want 0 '^chimaera: ready'
chi status
want 0 '  node 1  serving'
chi call 1.0 flush --query physical:0
want 1 'CHI_EUNREACHABLE'
chi call ram get_stats --query physical:0
want 1 'CHI_ENOENT'
chi call ram get_stats --query physical:1
want 0
# Of the nodes of the list this one is up: a pool of its own needs no other.
printf 'compose:\n- {mod_name: bdev, pool_name: %s, pool_query: %s, pool_id: "%s.0", %s}\n' \
  own local 330 'bdev_type: ram, capacity: 1M' >"$temp/own.yaml"
chi compose "$temp/own.yaml"
want 0 '^330.0 bdev own: created$'
chi call own get_stats --query broadcast --json
want 0 '"rc":0,'
chi stop
want 0
CHI_NODE=1 chi start --config "$temp/two.yaml" --detach
want 0
chi status
want 0 '  node 1  serving'
chi stop
want 0
printf '198.51.100.7\n127.0.0.2\n' >"$temp/hosts"
chi start --config "$temp/two.yaml" --detach
want 0
chi status
want 0 '  node 1  serving'
chi stop
want 0
printf '198.51.100.7\n198.51.100.8\n' >"$temp/hosts"
chi start --config "$temp/two.yaml" --detach
want 1 "none of the hostfile's 2 nodes has an address of this machine"

# ---- open files --------------------------------------------------------------------------------

(
  ulimit -S -n 64
  "$CHIMAERA" start --detach --pid-file "$temp/pid" >"$temp/out" 2>&1
)
status=$?
want 0
ok test "$(awk '/Max open files/ { print $4 }' "/proc/$(cat "$temp/pid")/limits")" = \
  "$(awk '/Max open files/ { print $5 }' "/proc/$(cat "$temp/pid")/limits")"
chi stop
want 0

# ---- compose -----------------------------------------------------------------------------------

start
want 0
chi compose "$temp/odd.yaml"
want 0 '^600.0 odd odd: created$'
chi compose "$temp/odd.yaml" --json
want 0 '^\[{"id":"600.0","module":"odd","name":"odd","created":false}\]$'
chi compose "$temp/node.yaml"
want 0 'ram: was there$'
sed 's/16M/32M/' "$temp/node.yaml" >"$temp/other.yaml"
chi compose "$temp/other.yaml"
want 1 'other.yaml:5:3: pool 300.0 "ram":'
cat >"$temp/some.yaml" <<END
compose:
- {mod_name: bdev, pool_name: r1, pool_query: local, pool_id: "310.0", bdev_type: ram, capacity: 1M}
- {mod_name: bdev, pool_name: r2, pool_query: local, pool_id: "311.0", bdev_type: rum, capacity: 1M}
- {mod_name: bdev, pool_name: r3, pool_query: local, pool_id: "312.0", bdev_type: ram, capacity: 1M}
END
chi compose "$temp/some.yaml"
want 1 '^310.0 bdev r1: created$' 'some.yaml:3:3: pool 311.0 "r2":'
ok not grep -q 312 "$temp/out"
chi compose "$temp/bad.yaml"
want 1 'bad.yaml:2:3:'
chi compose "$temp/none.yaml"
want 1 'none.yaml'
chi compose
want 2
printf 'compose:\n- {mod_name: nosuch, pool_name: n, pool_query: local, pool_id: "320.0"}\n' \
  >"$temp/nosuch.yaml"
chi compose "$temp/nosuch.yaml"
want 1 'nosuch.yaml:2:3: pool 320.0 "n": .*nosuch'
# What is wrong with a parameter has the place of the parameter.
cat >"$temp/place.yaml" <<END
networking: {port: $((port + 1))}
logging: {file: $temp/log}
compose:
- mod_name: bdev
  pool_name: r9
  pool_query: local
  pool_id: "390.0"
  bdev_type: ram
  capacity: 1M
  perf_metrics:
    iops: many
END
chi compose "$temp/place.yaml"
want 1 'place.yaml:11:5: pool 390.0 "r9": perf_metrics_iops: "many" is no value'
chi start --config "$temp/place.yaml"
want 1 'compose entry r9 (390.0, module bdev, line 11, column 5): perf_metrics_iops: "many"'

# ---- status and top ----------------------------------------------------------------------------

chi status
want 0 "^$name:$port  version [0-9.]*  node 0  serving" '^  300.0  ram' '^ .*network  ok'
chi status --json
want 0 "^{\"instance\":\"$name:$port\"," '"id":"300.0","name":"ram","module":"bdev","state":"ready"'
want 0 '"figures":{"measured":{"capacity":'
chi top
want 0 '/s' '^workers' '^figures of modules' ' measured.capacity '
chi top --count 3 --interval 50ms
want 0
ok test "$(grep -c "^$name:$port" "$temp/out")" = 3
chi top --interval never
want 2 'expected a duration'
chi top --interval 0
want 2
chi top --count 2 --interval 50ms --json
want 0 "^{\"instance\":\"$name:$port\","
ok test "$(grep -c "^{\"instance\":\"$name:$port\"," "$temp/out")" = 2
# Without a hostfile a cluster is one node.
chi status --cluster
want 0 "^$name:$port  version [0-9.]*  node 0 of 1: 1 alive, 1 answer$" '^ *0  -     serving ' \
  '^  300.0  ram    bdev    *1/1 '
chi status --cluster --json
want 0 '^{"asked":0,"nodes":\[{"node":0,"host":"","state":"alive","answer":"fresh",'
chi top --cluster --interval 50ms
want 0 '^ *0  -     serving '
chi status --timeout never
want 2 'expected a duration'
chi metrics --once
want 0 '^chimaera_up 1$' '^chimaera_node_up{node="0"} 1$'
# How many tasks failed is not forgotten with their pool.
chi call 310.0 allocate_blocks size=1G
want 1
chi call admin destroy_pool pool_id=310.0
want 0
chi status --json
want 0 '"failed":[1-9][0-9]*,"refused":0,"codes":{.*"CHI_ENOSPC":1[,}]'
for key in q $'\003'; do
  # On a terminal: the other screen is entered and left again. A shell in between would end by the
  # same Ctrl-C, so there is none.
  (sleep 0.7 && printf %s "$key" && sleep 1) |
    timeout 20 script -qec "exec '$CHIMAERA' top --interval 200ms" /dev/null \
      >"$temp/out" 2>"$temp/err"
  status=$?
  want 0 $'\033\\[?1049h' $'\033\\[?1049l' 'q quits'
done

# ---- call --------------------------------------------------------------------------------------

chi call 300.0
want 0 '^module bdev$' '^  10 allocate_blocks$' '^      in    size     size$'
chi call ram --json
want 0 '"name":"chi_bdev_write"'
for method in allocate_blocks bdev_allocate_blocks chi_bdev_allocate_blocks 10; do
  chi call ram $method size=4K
  want 0 '"blocks":\[{"offset":[0-9]*,"size":4096,"type":[0-9]*}\],"block_total":1,"more":0}$'
done
chi call ram alocate_blocks size=4K
want 2 'no method "alocate_blocks"; nearest is "allocate_blocks"; it has: .*get_stats'
chi call ram 99
want 2 'no method "99"; it has:'
chi call ram allocate_blocks sice=4K
want 2 'sice: .* has no such field; nearest is "size"; it has: size, blocks'
chi call ram allocate_blocks size=4Q
want 2 'expected a size such as'
chi call ram allocate_blocks size
want 2 'size: expected name=value'
chi call ram allocate_blocks
want 2 'chi_bdev_allocate_blocks: size (size) must be given'
chi call ram write block.offset=0 data=x
want 2 'block.size (size) must be given'
chi call ram free_blocks 'blocks[1].offset=0' 'blocks[1].size=4096'
want 2 'blocks\[0\].offset (size) must be given'
chi call ram free_blocks 'blocks[64].offset=0'
want 2 'N from 0 to 63'
chi call ram free_blocks 'blocks[0].offset=0' 'blocks[0].size=4096'
want 0 '^{}$'
chi call ram free_blocks 'blocks[0].offset=0' 'blocks[0].size=4096'
want 1 'invalid argument (CHI_EINVAL)'
chi call ram allocate_blocks size=1T --json
want 1 '^{"rc":-15,"status":"CHI_ENOSPC","text":"no space left","out":{' 'no space left'
chi call nosuch
want 1 'no pool named "nosuch"'
chi call 999.0
want 1 'pool 999.0'
chi call
want 2 'which pool'
head -c 5000 /dev/urandom >"$temp/data"
chi call ram write block.offset=4096 block.size=8192 "data=@$temp/data"
want 0 '{"bytes_written":5000}'
chi call ram read block.offset=4096 block.size=8192 length=5000 "data=@$temp/back"
want 0 '{"data":5000,"bytes_read":5000}'
ok cmp "$temp/data" "$temp/back"
chi call ram read block.offset=4096 block.size=8192 length=5000 data=@/no/such/file
want 1 '/no/such/file'
chi call ram write block.offset=4096 block.size=8192 data=@/no/such/file
want 1 '/no/such/file: No such file'
chi call ram write block.offset=4096 block.size=4096 "data=@$temp/data"
want 1 'CHI_ERANGE'
chi call ram read block.offset=4096 block.size=8192 length=5 data=text
want 2 'is written by the method'
chi call odd swap from=@@abc to=@- to.size=4
want 0 'cba@{"to":4}'
chi call odd swap from=abc to=@-
want 2 'give to.size=SIZE'
chi call odd swap from.size=9
want 2 'give from=@FILE or from=TEXT'
chi call odd swap from.length=9
want 2 'a buffer has only from.size'
chi call odd code code=7
want 1 "the module's own code 7" '{"text":"\\"\\u001b\[2J\\n"}'
chi call odd code code=-99
want 1 "odd_code: the code -99, which is none of the runtime's"
chi call odd nap time=30s --timeout 200ms
want 1 'timed out (CHI_ETIMEOUT)'
chi call odd nap time=1ms --query local
want 0 '^{}$'
chi call odd nap --query nowhere
want 2 'expected local, broadcast'
chi call odd nap --query id:x
want 2 '--query id:x: expected id:N, a number'
chi call odd nap --query local:1
want 2 '--query local:1: local has nothing behind it'
chi call ram get_stats capacity=1
want 2 'capacity: comes out of chi_bdev_get_stats, and takes no value'
chi call ram allocate_blocks size=1 'blocks[0].offset=0'
want 2 'blocks\[0\].offset: comes out of chi_bdev_allocate_blocks'
chi status --instance :99999
want 1 '":99999" is not an instance: expected NAME:PORT'
chi call admin find_pool pool_name=ram
want 0 '{"pool_id":"300.0","mod_name":"bdev"}'
chi call admin monitor json=@- json.size=100
want 1 'CHI_ETOOBIG'

# ---- put and get -------------------------------------------------------------------------------

free_space()
{
  "$CHIMAERA" call ram get_stats | sed 's/.*"remaining":\([0-9]*\).*/\1/'
}

for size in 0 1 4097 3145733; do
  head -c $size /dev/urandom >"$temp/file.$size"
  chi put "$temp/file.$size" ram
  want 0 '^put .* xxh64:[0-9a-f]\{16\}$'
  chi get ram "$temp/copy" --manifest "$temp/file.$size.chi.json"
  want 0 '^got '
  ok cmp "$temp/file.$size" "$temp/copy"
  rm "$temp/copy"
done
ok grep -q '"checksum":"xxh64:ef46db3751d8e999"' "$temp/file.0.chi.json"
chi put "$temp/file.1" ram
want 1 'file.1.chi.json is there already'
chi put "$temp/file.1" ram --force --json
want 0 '^{"size":1,"blocks":1,.*"manifest":".*file.1.chi.json"}$'
left=$(free_space)
head -c 32M /dev/zero >"$temp/large"
chi put "$temp/large" ram
want 1 'cannot allocate the blocks: no space left'
ok not test -e "$temp/large.chi.json"
chi put "$temp/file.4097" ram --manifest /no/such/directory/m
want 1 '/no/such/directory/m'
ok test "$(free_space)" = "$left"
chi put "$temp/none" ram
want 1 'none: No such file'
chi put "$temp" ram
want 1 'is no regular file'
chi put "$temp/file.1" admin --manifest "$temp/manifest"
want 1 'pool admin is of the module admin, not bdev'
chi get admin "$temp/copy" --manifest "$temp/file.1.chi.json"
want 1 'pool admin is of the module admin, not bdev'
chi put "$temp/file.1"
want 2
chi get ram
want 2
mkfifo "$temp/pipe"
for target in "$temp/pipe" "$temp"; do
  chi get ram "$target" --manifest "$temp/file.1.chi.json"
  want 1 "$target: is there, and no regular file"
  ok not test -f "$target"
done
sed 's/"offset":[0-9]*/"offset":99999998976/' "$temp/file.1.chi.json" >"$temp/manifest"
chi get ram "$temp/copy" --manifest "$temp/manifest"
want 1 'reading 1 bytes at 99999998976 of pool 300.0: '
sed 's/"pool":"[0-9.]*"/"pool":"7.8"/' "$temp/manifest" >"$temp/elsewhere"
chi get ram "$temp/copy" --manifest "$temp/elsewhere"
want 1 'reading .* of pool 300.0 (the manifest is of pool 7.8): '
chi get ram "$temp/copy"
want 1 'copy.chi.json: No such file'
offset=$(sed -n 's/.*"offset":\([0-9]*\).*/\1/p' "$temp/file.4097.chi.json" | head -n 1)
chi call ram write "block.offset=$offset" block.size=4096 data=spoilt
want 0
chi get ram "$temp/copy" --manifest "$temp/file.4097.chi.json"
want 1 'the checksum is xxh64'
ok not test -e "$temp/copy"
ok not test -e "$temp/copy.part"
for text in '' '{}' '[1' '{"format":"chimaera-file 1","size":9,"checksum":"xxh64:0","blocks":[]}' \
  '{"format":"chimaera-file 1","size":9,"checksum":"xxh64:0123456789abcdef","blocks":[]}'; do
  printf %s "$text" >"$temp/manifest"
  chi get ram "$temp/copy" --manifest "$temp/manifest"
  want 1 'manifest: '
done
printf '{"format":"chim' >"$temp/manifest"
chi get ram "$temp/copy" --manifest "$temp/manifest"
want 1 'malformed JSON at byte 15: expected the end of a string'

# A pool in pieces: more extents than a task's array has room for.
cat >"$temp/pieces.yaml" <<END
compose:
- {mod_name: bdev, pool_name: pieces, pool_query: local, pool_id: "301.0",
   bdev_type: ram, capacity: 10M}
END
chi compose "$temp/pieces.yaml"
want 0
offsets=$(for ((i = 0; i < 160; i++)); do
  "$CHIMAERA" call pieces allocate_blocks size=64K
done | sed -n 'n; s/.*"offset":\([0-9]*\).*/\1/p')
for offset in $offsets; do
  "$CHIMAERA" call pieces free_blocks "blocks[0].offset=$offset" 'blocks[0].size=65536' >/dev/null
done
head -c 5M /dev/urandom >"$temp/file"
chi put "$temp/file" pieces
want 0 ', 80 blocks of pool 301.0'
chi get pieces "$temp/copy" --manifest "$temp/file.chi.json"
want 0
ok cmp "$temp/file" "$temp/copy"

# Of a device in memory one operation in sixteen is timed, of reads and writes each: taking turns,
# as here, they don't hide each other.
sed 's/pieces/turns/; s/301.0/302.0/' "$temp/pieces.yaml" >"$temp/turns.yaml"
chi compose "$temp/turns.yaml"
want 0
chi put "$temp/file.1" turns --force
want 0
chi get turns "$temp/copy" --manifest "$temp/file.1.chi.json"
want 0
chi call turns get_stats
want 0 '"write_latency_us":[0-9.]*[1-9]'
want 0 '"read_latency_us":[0-9.]*[1-9]'

# ---- keygen ------------------------------------------------------------------------------------

mkdir "$temp/keys"
chi keygen --directory "$temp/keys" node1
want 0 '^[^ ]\{40\}$' 'node1.key stays with the node; .*node1.pub is for all nodes'
ok test "$(stat -c %a "$temp/keys/node1.key")" = 600
ok grep -qxF "public $(cat "$temp/out")" "$temp/keys/node1.pub"
chi keygen --directory "$temp/keys" node1
want 1 'node1.key: is there already, and is not overwritten'
chi keygen --directory "$temp/nosuch" node1
want 1 'nosuch/node1.key: No such file or directory'
chi keygen
want 2 'expected one NAME'
chi keygen ../node1
want 2 'expected one NAME'

# ---- bench -------------------------------------------------------------------------------------

for test in bdev_io bdev_allocation bdev_task_alloc latency; do
  chi bench --test-case $test --threads 2 --duration 1 --max-file-size 8m --output-dir "$temp"
  want 0 "^$test: " 'operations' 'latency mean'
  ok grep -q "\"test_case\":\"$test\",\"threads\":2" "$temp/chimaera_bench_$test.json"
done
ok not grep -q chimaera_bench <("$CHIMAERA" status)
chi bench --test-case nosuch
want 2 'expected bdev_io'
chi bench --test-case latency --lane-policy sideways
want 2 'expected round_robin'
chi bench --test-case latency --threads 0
want 2
chi bench --test-case bdev_io --io-size 2g
want 2 'expected 8 to 268435456 bytes'
# Shares are whole blocks, and all of them fit.
chi bench --test-case bdev_io --threads 3 --duration 1 --max-file-size 64k --output-dir "$temp"
want 0 '^bdev_io: ' 'operations'
chi bench --test-case bdev_allocation --threads 3 --duration 1 --max-file-size 64k \
  --io-size 20k --output-dir "$temp"
want 0 '^bdev_allocation: ' 'operations'
chi bench --test-case bdev_io --threads 3 --duration 1 --max-file-size 12k --output-dir "$temp"
want 0 '^bdev_io: ' 'operations'
chi bench --test-case bdev_io --threads 3 --max-file-size 8k --output-dir "$temp"
want 2 'max-file-size: expected 12288 bytes at least, a block of 4096 for each of 3 threads'
chi bench --test-case bdev_allocation --threads 3 --max-file-size 64k --io-size 21k
want 2 'io-size: expected 8 to 20480 bytes'

# Nodes that share a machine, and thus the directory: the device is one of the daemon's node.
printf '127.0.0.2\n127.0.0.3\n' >"$temp/hosts.bench"
for node in 0 1; do
  {
    echo "memory: {main_segment_size: 64M, client_data_segment_size: 64M}"
    echo "networking: {port: $((port + 1)), hostfile: $temp/hosts.bench}"
    echo "logging: {file: $temp/log.bench$node}"
    echo "shared_memory:"
    for what in main client_data runtime_data; do
      echo "  ${what}_segment_name: ${name}_${node}_$what"
    done
  } >"$temp/bench$node.yaml"
  chi start --config "$temp/bench$node.yaml" --node $node --detach --pid-file "$temp/bench$node.pid"
  want 0
done
for test in bdev_io bdev_allocation latency; do
  chi bench --test-case $test --threads 3 --duration 1 --max-file-size 8m --output-dir "$temp" \
    --instance "${name}_1_main:$((port + 1))"
  want 0 "^$test: " 'operations'
done
ok not ls "$temp"/chimaera_bench.[0-9]*
for node in 0 1; do
  chi stop --instance "${name}_${node}_main:$((port + 1))"
  want 0
done
chi bench --only nosuch
want 2 'there is no such figure'
chi bench --only alloc --rounds 2 --seconds 0.05 --json --directory "$temp"
want 0 '"figure":"alloc-task"' '"rounds":\[{"ours":[0-9.]*,"raw":[0-9.]*},{'
chi bench --only remote --rounds 2 --seconds 0.05 --idle-seconds 1 --json --directory "$temp"
want 0 '"figure":"remote-latency".*"rounds":\[{"ours":[0-9.]*,"raw":[0-9.]*},{' \
  '"figure":"remote-rate-5"' '"figure":"remote-bulk-64m"' '"figure":"remote-wakeups"' \
  '"figure":"remote-idle"'
chi bench --only alloc-4k --rounds 1 --seconds 0.05 --directory /no/such
want 1 '/no/such'

# ---- completion --------------------------------------------------------------------------------

# $1: what should be among the proposals; the rest: the words so far.
completes()
{
  local expected=$1
  shift
  # shellcheck source=tools/completion.bash
  . "$here/tools/completion.bash"
  COMP_WORDS=("$CHIMAERA" "$@") COMP_CWORD=$#
  _chimaera
  printf '%s\n' "${COMPREPLY[@]}" | grep -qxF -e "$expected"
}
ok completes status st
ok completes --test-case bench --te
ok completes 300.0 call 3
ok completes allocate_blocks call 300.0 al
ok completes block.offset= call 300.0 --query local write bl
ok completes stop help st
ok completes physical: call 300.0 get_stats --query phy
ok completes warning start --log-level wa
ok completes "$temp/node.yaml" start --config "$temp/nod"
ok test "$(completes 'blocks[' call 300.0 free_blocks bl; echo "${#COMPREPLY[@]}")" = 1
ok completes 'blocks[' call 300.0 free_blocks bl

# ---- other names -------------------------------------------------------------------------------

for alias in start_runtime stop_runtime compose bench; do
  ln -sf "$CHIMAERA" "$temp/chimaera_$alias"
  ok "$temp/chimaera_$alias" --help
  ok grep -q "^usage: chimaera_$alias" <("$temp/chimaera_$alias" --help)
done
ok "$temp/chimaera_compose" "$temp/odd.yaml"
ok "$temp/chimaera_stop_runtime" 1000

# ---- what happens at the end -------------------------------------------------------------------

# A task that can be cancelled outlives the grace period.
napping 60s
chi stop 200
want 3 'was cancelled at the end of the grace period: 1 task$'
wait $!
status=$?
want 1
ok grep -q -e CANCELLED -e SHUTDOWN "$temp/nap"

# Nothing was left, however long the end took beside the grace period.
for grace in 0 1; do
  start
  want 0
  chi stop $grace
  want 0 '^stopped after [^;,]*$'
done

# What ends in time is not cancelled.
napping 500ms
chi stop 20000
want 0 '^stopped after [^;,]*$'
wait $!
status=$?
want 0

# A daemon that is killed meanwhile tells nothing.
napping 60s
"$CHIMAERA" stop 20000 >"$temp/out" 2>"$temp/err" &
stopper=$!
sleep 0.5
kill -KILL "$(cat "$temp/pid")"
wait $stopper
status=$?
want 3 'without telling whether its work was done$'

# Signals: the first drains; the second ends it at once.
foreground
chi compose "$temp/odd.yaml"
want 0
"$CHIMAERA" call odd nap time=60s >/dev/null 2>&1 &
ok working
kill -INT $pid
sleep 0.3
ok kill -0 $pid
kill -TERM $pid
wait $pid
status=$?
want 143

# A method that never comes back.
foreground --grace 200
chi compose "$temp/odd.yaml"
want 0
"$CHIMAERA" call odd spin >/dev/null 2>&1 &
ok working
kill -TERM $pid
wait $pid
status=$?
want 75
ok grep -q 'did not come back' "$temp/complaint"
start
want 0
chi compose "$temp/odd.yaml"
want 0
"$CHIMAERA" call odd spin >/dev/null 2>&1 &
ok working
pid=$(cat "$temp/pid")
chi stop 200
want 3
ok gone "$pid"

# A method that overruns its stack ends the daemon, and is named.
foreground
chi compose "$temp/odd.yaml"
want 0
chi call odd deep
want 1 'shutting down or gone'
wait $pid
status=$?
want 70
ok grep -q odd_deep "$temp/complaint" "$temp/log"

# A daemon that is killed: whoever waits is told.
napping 60s
kill -9 "$(cat "$temp/pid")"
wait $!
status=$?
want 1
ok grep -q 'shutting down or gone' "$temp/nap"
start
want 0
chi stop
want 0

# The readiness protocol.
cat >"$temp/listen.c" <<'END'
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
int main(int argc, char **argv)
{
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
  char text[100];
  strncpy(address.sun_path, argc > 1 ? argv[1] : "", sizeof address.sun_path - 1);
  if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0)
    return 1;
  alarm(20);
  for (int i = 0; i < 2; i++) {
    ssize_t n = recv(fd, text, sizeof text, 0);
    printf("%.*s\n", (int)(n < 0 ? 0 : n), text);
    fflush(stdout);
  }
  return 0;
}
END
ok "$CC" -D_GNU_SOURCE "$temp/listen.c" -o "$temp/listen"
"$temp/listen" "$temp/notify" >"$temp/states" &
for ((i = 0; i < 100; i++)); do
  [ ! -S "$temp/notify" ] || break
  sleep 0.02
done
listener=$!
NOTIFY_SOCKET=$temp/notify start
want 0
chi stop
want 0
wait $listener
ok diff - "$temp/states" <<<$'READY=1\nSTOPPING=1'

sum_up
