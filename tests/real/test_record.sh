#!/bin/bash
# test_record.sh - a daemon on one thread; daemons that are recorded under load, and their replay.
#
# Needs CHIMAERA, the program, and BUILD, where modules/calc.so is; closes with the counts.
set -u
LC_ALL=C
export LC_ALL
here=$(cd "$(dirname "$0")/../.." && pwd)
: "${BUILD:=$here/build/gcc-amalgam}" "${CHIMAERA:=$BUILD/chimaera}"
if ! [ -x "$CHIMAERA" ] || ! [ -e "$BUILD/modules/calc.so" ]; then
  echo "$CHIMAERA or $BUILD/modules/calc.so: is not there; make real builds them" >&2
  exit 1
fi
case $BUILD in
/*) ;;
*) BUILD=$PWD/$BUILD ;;
esac
modules=$BUILD/modules
case $CHIMAERA in
/*) ;;
*) CHIMAERA=$PWD/$CHIMAERA ;;
esac
: "${CC:=cc}"
CHI_MODULE_PATH=$modules
export CHI_MODULE_PATH
temp=$(mktemp -d "${TMPDIR:-/var/tmp}/chimaera-record-XXXXXX") || exit 1
port=$((20000 + $$ % 20000))
chi_seconds=120 # a replay takes its time on a busy machine
# shellcheck source=tests/real/shell.sh
. "$here/tests/real/shell.sh"
pid=('' '' '') load=''
cd "$temp" || exit 1

# shellcheck disable=SC2317
finish()
{
  local p
  for p in $load "${pid[@]}"; do
    kill -9 "$p" 2>/dev/null
  done
  wait 2>/dev/null
  cd / && rm -rf "$temp"
}
trap finish EXIT

# $1: what is wrong if the rest, a condition of test, is not so.
holds()
{
  local what=$1
  shift
  if test "$@"; then right; else wrong "$what"; fi
}

# ---- nodes ---------------------------------------------------------------------------------------

printf '127.0.0.1\n127.0.0.2\n127.0.0.3\n' >hosts

# $1: node; the rest is added to its configuration, in lines.
configure()
{
  local node=$1
  shift
  {
    echo "memory: {main_segment_size: 64M, client_data_segment_size: 64M}"
    echo "logging: {file: $temp/log$node, level: info}"
    echo "shared_memory:"
    echo "  main_segment_name: rec_$$_$node"
    echo "  client_data_segment_name: rec_$$_${node}_c"
    echo "  runtime_data_segment_name: rec_$$_${node}_r"
    printf '%s\n' "$@"
  } >"node$node.yaml"
}

# $1: node; the rest are options. Waits until it is ready.
start()
{
  local node=$1 i
  shift
  rm -f "ready$node"
  "$CHIMAERA" start --config "node$node.yaml" "$@" >"ready$node" 2>"complaint$node" &
  pid[node]=$!
  for ((i = 0; i < 400; i++)); do
    ! grep -q ready "ready$node" 2>/dev/null || return 0
    sleep 0.05
  done
  cat "complaint$node" >err
  return 1
}

name()
{
  echo "rec_$$_$1:$port"
}

stop()
{
  chi stop --instance "$(name "$1")"
  wait "${pid[$1]}"
  status=$?
  pid[$1]=''
  cp "ready$1" out
}

# The state hash that the log of a node tells, or that the last replay did.
hash_of()
{
  sed -n 's/.*state hash \([0-9a-f]*\).*/\1/p' "$1" | tail -n 1
}

replay()
{
  chi sim --replay-node "$@"
}

# A replay of $1 must be complete and end in the hash that the daemon $2 logged.
same()
{
  replay "$1"
  want 0 'state hash'
  holds "no hash in the log" -n "$(hash_of "log$2")"
  holds "recorded $(hash_of "log$2")" "$(hash_of out)" = "$(hash_of "log$2")"
}

# ---- one thread ----------------------------------------------------------------------------------

alone="networking: {port: $port}"
disk="compose:
  - {mod_name: bdev, pool_name: $temp/disk, pool_query: local, pool_id: '300.0', capacity: 16M,
     bdev_type: file}
  - {mod_name: calc, pool_name: sums, pool_query: local, pool_id: '500.0'}"

configure 0 "$alone" "workers: {single_thread: true}" "$disk"
ok start 0
holds "threads" "$(cat /proc/"${pid[0]}"/task/*/comm | grep -c '^chi-')" = 1
chi call --instance "$(name 0)" 500.0 calc_add a=20 b=22
want 0 '"sum":42'
chi call --instance "$(name 0)" 500.0 calc_later ns=50000000 a=7
want 0 '"sum":'
chi bench --test-case latency --instance "$(name 0)" --duration 1 --threads 2 --output-dir .
want 0 'operations'
chi bench --test-case bdev_io --instance "$(name 0)" --duration 1 --threads 2 \
  --max-file-size 16m --output-dir .
want 0 'operations'
# It sleeps when there is nothing to do: under 2 % of a CPU, of a hundred ticks a second.
before=$(awk '{print $14 + $15}' "/proc/${pid[0]}/stat")
sleep 3
after=$(awk '{print $14 + $15}' "/proc/${pid[0]}/stat")
holds "idle for 3 s: $((after - before)) ticks" $((after - before)) -le 6
stop 0
want 0

# What holds for nodes holds for these, but that others go on while a method doesn't yield.
ok env CHI_TEST_SINGLE=1 "$BUILD/real/test_embed"
for tests in a_node_serves an_idle_node many_clients a_sleeping_task waits_end; do
  ok env CHI_TEST_SINGLE=1 "$BUILD/real/test_real_node" $tests
done

configure 0 "$alone" "workers: {single_thread: perhaps}"
chi start --config node0.yaml
want 1 'single_thread.*true or false'

# ---- a record of one node ------------------------------------------------------------------------

rm -rf disk*
configure 0 "$alone" "$disk"
echo 'something else, for everybody' >one.rec
chmod 644 one.rec
ok start 0 --record one.rec
chi call --instance "$(name 0)" 500.0 calc_add a=20 b=22
want 0 '"sum":42'
chi call --instance "$(name 0)" 500.0 calc_divide a=1 b=0
head -c 300000 /dev/urandom >bytes
chi call --instance "$(name 0)" 500.0 calc_shift from=@bytes to.size=300000 to=@shifted add=1
want 0
chi call --instance "$(name 0)" 300.0 allocate_blocks size=1M
want 0 '"blocks"'
chi call --instance "$(name 0)" 300.0 write block.offset=0 block.size=1M data=@bytes
want 0
chi call --instance "$(name 0)" 300.0 read block.offset=0 block.size=1M length=300000 data=@again
want 0
ok cmp bytes again
chi status --instance "$(name 0)"
want 0
chi start --config node0.yaml --instance other:$((port + 1)) --record one.rec
want 1 'cannot record to one.rec: another node does'
stop 0
want 0 'recorded [0-9]* items to one.rec, state hash [0-9a-f]*'
holds "anybody may read it" "$(stat -c %a one.rec)" = 600
same one.rec 0
replay one.rec --story
want 0 'node is serving\|of module calc is ready' 'stopping' 'state hash'
# It needs neither the device nor the daemon: nothing but the record and the modules.
rm -rf disk*
same one.rec 0
CHI_MODULE_PATH=$temp replay one.rec
want 1 'one.rec: cannot be replayed without module "calc"'

# A module that does something else since: both sides are told.
mkdir -p changed
sed '/^static int calc_add_run/,/^}/s/t->a + t->b/t->a - t->b/' "$here/tests/modules/calc.c" >calc.c
ok "$CC" -std=c11 -O1 -fPIC -shared -I "$here/sources" -I "$here/tests" calc.c \
  -o changed/calc.so
CHI_MODULE_PATH=$temp/changed replay one.rec
want 3 "one.rec: item [0-9]*: recorded was {trace: 16 .*}, and now comes {trace: 16 "

# ---- records that are not what they should be ----------------------------------------------------

# $1: file, $2: byte, $3: its new value; from one.rec.
altered()
{
  cp one.rec "$1"
  # shellcheck disable=SC2059
  printf "\\x$3" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

size=$(stat -c %s one.rec)
altered version.rec 8 63
replay version.rec
want 1 'version.rec: is a record of version 99; this program reads version 1'
altered other.rec 0 43
replay other.rec
want 1 'is not a record of a node'
replay node0.yaml
want 1 'is not a record of a node'
ok not grep -q items "$temp/out"
: >empty.rec
replay empty.rec
want 1 'is not a record of a node'
replay nothing.rec
want 1 'nothing.rec: No such file'
for at in 13 100 $((size / 2)) $((size - 30)) $((size - 1)); do
  was=$(od -An -tu1 -j "$at" -N1 one.rec)
  altered flipped.rec "$at" "$(printf %x $((was ^ 16)))"
  replay flipped.rec
  want 1 'flipped.rec: .*damaged'
done
for cut in 5 12 20 400 $((size / 2)) $((size - 36)) $((size - 1)); do
  head -c "$cut" one.rec >cut.rec
  replay cut.rec
  case $cut in
  5) want 1 'is not a record' ;;
  12 | 20 | 400) want 1 'ends' ;;
  *) want 0 'state hash' 'cut.rec: as recorded up to there, but not complete: the file ends' ;;
  esac
done
chi start --config node0.yaml --record /nowhere/at/all
want 1 'cannot record to /nowhere/at/all: No such file'
chi start --config node0.yaml --record /dev/null
want 1 'cannot record to /dev/null: it is no file'
chi start --config node0.yaml --record ''
want 2 'needs a path'
chi sim --replay-node one.rec --shrink one.rec
want 2 'do not go together'

# ---- killed ----------------------------------------------------------------------------------

rm -rf disk*
ok start 0 --record killed.rec
chi bench --test-case latency --instance "$(name 0)" --duration 1 --threads 2 --output-dir .
want 0 'operations'
kill -9 "${pid[0]}"
{ wait "${pid[0]}"; } 2>/dev/null
pid[0]=''
replay killed.rec
want 0 'state hash' 'not complete: the file ends after block .* the node was killed'
items=$(sed -n 's/^killed.rec: \([0-9]*\) items.*/\1/p' out)
holds "only $items items" "${items:-0}" -gt 2000

# ---- no room for the record ----------------------------------------------------------------------

# From some moment on no file may grow: the node goes on without its record, and says so.
rm -rf disk* log0
trap '' XFSZ
ok start 0 --record full.rec
trap - XFSZ
"$CHIMAERA" bench --test-case latency --instance "$(name 0)" --duration 5 --threads 2 \
  --output-dir . >rush 2>&1 &
bench=$!
for ((i = 0; i < 100; i++)); do
  [ "$(stat -c %s full.rec)" -lt 300000 ] || break
  sleep 0.05
done
prlimit --pid "${pid[0]}" --fsize="$(stat -c %s full.rec)":unlimited
wait $bench
holds "the bench: $(cat rush)" $? = 0
prlimit --pid "${pid[0]}" --fsize=unlimited:unlimited
stop 0
want 0
ok grep 'error node=0 the record in full.rec is not complete: does not fit' log0
ok grep 'the record in full.rec is not complete' complaint0
replay full.rec
want 0 'state hash' 'not complete'

# ---- three nodes under load, and one of them killed ----------------------------------------------

everywhere="networking: {port: $port, hostfile: $temp/hosts, wait_for_restart: 1s}
runtime: {heartbeat_interval: 100ms, task_timeout: 2s}"
pools="compose:
  - {mod_name: calc, pool_name: sums, pool_query: dynamic, pool_id: '500.0'}
  - {mod_name: bdev, pool_name: mem, pool_query: dynamic, pool_id: '301.0', capacity: 16M,
     bdev_type: ram}"
rm -rf disk* log?
configure 0 "$everywhere" "$pools"
configure 1 "$everywhere" "$pools"
configure 2 "$everywhere" "$pools"
ok start 0 --node 0 --record many.rec
ok start 1 --node 1
ok start 2 --node 2

# Calls from node $1, one after the other, to all others and to all at once; failures are expected.
calls()
{
  local from=$1 to
  while :; do
    for to in physical:0 physical:1 physical:2 range:0:3 broadcast hash:7; do
      "$CHIMAERA" call --instance "$(name "$from")" --timeout 5s --query $to 500.0 calc_shift \
        from=@bytes to.size=300000 to=@/dev/null add=3
      "$CHIMAERA" call --instance "$(name "$from")" --timeout 5s --query $to 500.0 calc_later \
        ns=1000000 a=3
      "$CHIMAERA" call --instance "$(name "$from")" --timeout 5s --query $to 301.0 \
        allocate_blocks size=4K
    done
  done
}

# Waits until calls from node $1 have succeeded $2 times, for at most a minute.
succeed()
{
  local i
  for ((i = 0; i < 600; i++)); do
    [ "$(grep -c '"sum"\|"to"' "calls$1" 2>/dev/null)" -lt "$2" ] || return 0
    sleep 0.1
  done
  tail -n 3 "calls$1"
  return 1
}

: >calls0 && : >calls1
for node in 0 0 0 1 1; do
  calls $node >>calls$node 2>&1 &
  load="$load $!"
done
ok succeed 0 20
ok succeed 1 20
kill -9 "${pid[1]}"
{ wait "${pid[1]}"; } 2>/dev/null
sleep 1
ok start 1 --node 1
ok succeed 0 $(($(grep -c '"sum"\|"to"' calls0) + 12))
ok succeed 1 $(($(grep -c '"sum"\|"to"' calls1) + 12))
for p in $load; do
  kill "$p" 2>/dev/null
  wait "$p" 2>/dev/null
done
load=''
for node in 0 1 2; do
  stop $node
  want 0
done
same many.rec 0
# The hash is one of all that happened: another run has another one.
holds "equal hashes" "$(hash_of log0)" != "$(replay one.rec && hash_of out)"

# ---- other tests, with every daemon recorded -----------------------------------------------------

# What they pass is what matters, and then that all that their daemons did can be done again: under
# streams of tasks, bulk, kills, and clients that keep to no rules.
mkdir -p all
cat >recorder <<END
#!/bin/bash
[ "\$1" = start ] || exec "$CHIMAERA" "\$@"
shift
exec "$CHIMAERA" start --record "$temp/all/\$\$.rec" "\$@"
END
chmod +x recorder
for tests in 'test_fleet a_stream_of' 'test_fleet who_is_killed' 'test_fleet bulk_of_any' \
  'test_hostile lane_entries_of' 'test_hostile tasks_of_any'; do
  # shellcheck disable=SC2086
  ok env CHIMAERA="$temp/recorder" "$BUILD"/real/$tests
done
holds "few daemons" "$(find all -name '*.rec' | wc -l)" -ge 10
for record in all/*.rec; do
  replay "$record"
  want 0 'items of node'
done

sum_up
