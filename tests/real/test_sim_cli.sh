#!/bin/bash
# test_sim_cli.sh - chimaera sim: runs, sweeps, saved runs, small ones, and what goes wrong.
#
# Needs CHIMAERA, the program, and BUILD, where modules/stray.so is; closes with the counts.
set -u
LC_ALL=C
export LC_ALL
here=$(cd "$(dirname "$0")/../.." && pwd)
: "${BUILD:=$here/build/gcc-amalgam}" "${CHIMAERA:=$BUILD/chimaera}"
if ! [ -x "$CHIMAERA" ] || ! [ -e "$BUILD/modules/stray.so" ]; then
  echo "$CHIMAERA or $BUILD/modules/stray.so: is not there; make real builds them" >&2
  exit 1
fi
case $BUILD in
/*) modules=$BUILD/modules ;;
*) modules=$PWD/$BUILD/modules ;;
esac
temp=$(mktemp -d "${TMPDIR:-/var/tmp}/chimaera-sim-XXXXXX") || exit 1
trap 'rm -rf "$temp"' EXIT
cd "$temp" || exit 1
# shellcheck source=tests/real/shell.sh
. "$here/tests/real/shell.sh"
unset CHI_MODULE_PATH CHI_SIM_JOB

# Runs the command: its status in $status, what it prints in out and err.
sim()
{
  timeout 120 "$CHIMAERA" sim "$@" >out 2>err </dev/null
  status=$?
}

# A scenario of one node and one method of the module stray, in NAME.yaml; $2: more of the mix, $3:
# more of the scenario.
stray()
{
  cat >"$1.yaml" <<END
name: $1
nodes: 1
module_path: $modules
modules: [stray]
pools: [{module: stray, id: 800.0}]
workload: {clients: 2, operations: 10, mix: [{pool: stray, method: $1$2}]}
$3
END
}

cat >one.yaml <<'END'
name: one
nodes: 1
seed: 5
pools:
  - {module: load, name: load, id: 900.0}
  - {module: bdev, name: disk.dat, id: 901.0, params: {bdev_type: file, capacity: 4M}}
workload:
  clients: 3
  operations: 20
  window: 4
  think: 0s..20ms
  cancel: 20%
  abandon: 5%
  mix:
    - {pool: load, method: echo, query: any, weight: 6, size: 0..16K}
    - {pool: load, method: lock, fields: {ns: 0..5000000}}
    - {pool: load, method: relay, query: any, fields: {key: 0..1000}}
    - {pool: load, method: gather, query: broadcast}
    - {pool: disk.dat, method: store, query: physical, weight: 2, size: 1..32K}
END

# ---- one run -------------------------------------------------------------------------------------

sim one.yaml
want 0 'one: 1 run from seed 5, 0 failed; .*, hash [0-9a-f]*$' '^tasks: ' 'CHI_OK'
hash=$(sed -n 's/.* hash \([0-9a-f]*\)$/\1/p' out)
sim one.yaml --story
want 0 'begins task' "hash $hash"
sim one.yaml --seed 6
ok test "$(sed -n 's/.* hash \([0-9a-f]*\)$/\1/p' out)" != "$hash"
sim one.yaml --trace t.json --html t.html
want 0 'all is well'
ok grep -q traceEvents t.json
ok grep -q '<html' t.html
sim one.yaml --print
want 0 'seed: 5' 'module: "bdev"'
cp out printed.yaml
sim printed.yaml
want 0 "hash $hash"
sim one.yaml --verify
want 0 'both are equal: '
sim --print
want 0 'nodes: 3' 'kinds: \[cut, '

# ---- many ----------------------------------------------------------------------------------------

sim one.yaml --runs 12 --jobs 2 --json
want 0 '"runs":12,"failed":0' '"zeros":\[\]' '"CHI_CANCELLED"\|"CHI_ECANCELLED"' '"cut":0'
sim one.yaml --minutes 0.3s --jobs 2 --allow-zero
want 0 'seeds/s'
cat >never.yaml <<'END'
name: never
nodes: 1
pools: [{module: load}]
workload: {operations: 1, mix: [{pool: load, method: echo}]}
faults: {plan: ['9 resume 0']}
END
sim never.yaml --runs 3
want 1 'never: fault resume' 'something that was asked for never happened'
sim never.yaml --runs 3 --allow-zero
want 0 'never: fault resume'
sim --runs 4 --swarm --allow-zero --until-failure
want 0 'between nodes: request sent'

# ---- failures, saved, replayed, shrunk -----------------------------------------------------------

stray fail ', weight: 1' 'never: [CHI_ECORRUPT]'
sim fail.yaml --runs 5 --jobs 2
want 1 'check "never" failed' 'saved as ./fail-[1-5].chi-replay' '5 runs from seed 1, 5 failed'
ok test "$(find . -name '*.chi-replay' | wc -l)" = 1
sim fail.yaml --until-failure --jobs 1 --seed 40
want 1 ' 1 run from seed 40, 1 failed'
saved=fail-40.chi-replay
sim --replay $saved
want 1 'replayed event for event: ' 'check "never" failed'
sim --replay $saved --story
want 1 'begins task' 'check "never" failed'
sim --shrink $saved
want 0 'fail-40.yaml: 1 nodes, 0 faults, 0 kills, 1 operations'
sim fail-40.yaml
want 1 'check "never" failed'
sim --shrink $saved --to small.yaml --seconds 1
want 0 'small.yaml: 1 nodes'
sim fail.yaml --seed 40 --output nowhere
want 1 'nowhere/fail-40.chi-replay: No such file'
sed 's/^never: .*/never: []/' fail.yaml >pass.yaml
sim pass.yaml
want 0 'pass: 1 run\|fail: 1 run'

# Where the result cannot be written is said before anything is run: here nothing could be.
mkdir away
cp "$modules/stray.so" away/
(modules=$PWD/away && stray fail '' 'never: [CHI_ECORRUPT]')
sim fail.yaml --seed 50
want 1 'saved as ./fail-50.chi-replay'
rm -r away
sim --shrink fail-50.chi-replay --to nowhere/small.yaml
want 1 'nowhere/small.yaml: No such file'
sim --shrink fail-50.chi-replay --to .
want 1 '\.: Is a directory'
echo kept >kept.yaml
sim --shrink fail-50.chi-replay --to kept.yaml
ok grep -qx kept kept.yaml
sim --shrink fail-50.chi-replay --to new.yaml
ok test ! -e new.yaml

# A file that the program can't have written any more.
checksum()
{
  "$CHIMAERA" sim --replay "$1" >out 2>err
  status=$?
}
head -c 300 $saved >short.chi-replay
checksum short.chi-replay
want 2 'short.chi-replay: it is truncated or was changed'
sed 's/^chi-replay 1$/chi-replay 2/' $saved >other.chi-replay
checksum other.chi-replay
want 2 'it is of version 2, this program reads 1'
sed 's/^seed 40$/seed 41/' $saved >changed.chi-replay
checksum changed.chi-replay
want 2 'it is truncated or was changed'
checksum one.yaml
want 2 'it is not a saved run'
: >empty.chi-replay
checksum empty.chi-replay
want 2 'it is not a saved run'
checksum nowhere.chi-replay
want 2 'nowhere.chi-replay: No such file'
sim --shrink short.chi-replay
want 2 'truncated'

# ---- modules that go astray ----------------------------------------------------------------------

stray crash ', fields: {at: 5}' ''
sim crash.yaml
want 1 'check "crash" failed.*SIGSEGV after event [0-9]* of seed 1, in method 10 (stray_crash)' \
  'saved as ./crash-1.chi-replay'
sim --replay crash-1.chi-replay
want 1 'replayed event for event' 'SIGSEGV'
sim --shrink crash-1.chi-replay
want 0 '1 nodes, 0 faults, 0 kills, 5 operations'
sim crash.yaml --story
want 1 'seed 1: check "crash" failed: SIGSEGV'
sim crash.yaml --html crash.html --trace crash.json
want 1 'seed 1: check "crash" failed.*SIGSEGV after event [0-9]* of seed 1, in method 10'
ok grep -q '<html' crash.html
ok grep -q 'SIGSEGV after event' crash.html
ok grep -q 'traceEvents' crash.json
sim crash.yaml --verify
want 1 'both end alike'
sed 's/^nodes: 1/nodes: 2/; s/method: crash/query: "physical:1", &/; s/clients: 2/clients: 1/' \
  crash.yaml >far.yaml
sim far.yaml # its only client is on node 0
want 1 'in method 10 (stray_crash) of pool 800, task [^,]*, worker [0-9]* of node 1'
stray abort ', fields: {at: 3}' ''
sim abort.yaml --runs 3 --jobs 2
want 1 'SIGABRT after event [0-9]* of seed 1, in method 11 (stray_abort)' ' 3 failed'
stray leave ', fields: {at: 3}' ''
sim leave.yaml
want 1 'check "crash" failed.*: exit after event [0-9]* of seed 1, in method 12 (stray_leave)'
stray loop ', fields: {at: 4}' ''
sim loop.yaml
want 1 'check "loop" failed.*nothing happens after event [0-9]*.*, in method 13 (stray_loop)'
stray count '' ''
sim count.yaml
want 0 'module stray changes its variable stray_total'
stray wander '' ''
sim wander.yaml --verify
want 3 'event [0-9]* differs' '  first   ' '  second  '

# ---- what never ends -----------------------------------------------------------------------------

cat >sleeps.yaml <<'END'
nodes: 1
pools: [{module: load}]
workload: {operations: 1, mix: [{pool: load, method: sleep, fields: {ns: 90000000000}}]}
limits: {time: 20s}
END
sim sleeps.yaml
want 1 'check "liveness" failed at 2[0-9].*: 1 clients have not ended'
sed 's/^limits.*/checks: {liveness: off}\n&/' sleeps.yaml >off.yaml
sim off.yaml
want 0 ' 0 failed'

# ---- scenarios that are wrong --------------------------------------------------------------------

printf 'nodes: 3\nnods: 4\n' >bad.yaml
sim bad.yaml
want 2 'bad.yaml:2:1: unknown key "nods"; nearest is nodes'
printf 'a: [1\n' >bad.yaml
sim bad.yaml
want 2 'bad.yaml:2:1: '
# $1: LINE:COLUMN; $2: what is wrong there; the rest: the scenario's lines.
wrong_at()
{
  local where=$1 what=$2
  shift 2
  printf '%s\n' "$@" >bad.yaml
  sim bad.yaml
  want 2 "^bad.yaml:$where: $what"
}
loads='pools: [{module: load}]'
wrong_at 3:11 'no module nosuch' 'nodes: 1' 'module_path: /nowhere' 'modules: [nosuch]'
wrong_at 2:10 'pool nosuch: no module "nosuch": name it in "modules"' 'nodes: 1' \
  'pools: [{module: nosuch}]'
wrong_at 3:29 'pool bdev: capacty' 'nodes: 1' 'pools:' '  - {module: bdev, params: {capacty: 1}}'
wrong_at 2:24 'pool bdev: .*failed: invalid argument' 'nodes: 1' \
  'pools: [{module: bdev, params: {bdev_type: file, capacity: 4}}]'
wrong_at 1:25 'pools: two have the name "load"' 'pools: [{module: load}, {module: load, id: 9.0}]'
wrong_at 2:10 'no such key of a cluster: "heartbet"' 'nodes: 1' 'config: {heartbet: 1}'
wrong_at 2:21 'latency: expected' 'costs: {step: 2}' 'config: {port: 777, latency: x}'
wrong_at 1:9 'no such key of a cluster: "stepp"' 'costs: {stepp: 2us}'
wrong_at 2:1 'up: there are 3 nodes, not 4' 'nodes: 3' 'up: 4'
wrong_at 2:30 "plan: \"0.7 crash 3\" names a node that isn't there" 'nodes: 3' \
  'faults: {plan: [0.5 crash 2, 0.7 crash 3]}'
wrong_at 2:12 "only: it names a node that isn't there" "$loads" \
  'workload: {only: ["0 3: 0"], operations: 1, mix: [{pool: load, method: echo}]}'
wrong_at 2:70 'operation 1 of the mix: sleep: nss: ' "$loads" \
  'workload: {operations: 1, mix: [{pool: load, method: sleep, fields: {nss: 5}}]}'
wrong_at 4:3 'operation 1 of the mix: sleep: ns: ' "$loads" \
  'workload: {operations: 1, mix: [{pool: load, method: sleep, fields: {' \
  '' '  ns: 0..18446744073709551616}}]}'
wrong_at 3:16 'operation 2 of the mix: ecko: ' "$loads" \
  'workload: {operations: 1, mix: [{pool: load, method: echo},' '  {pool: load, method: ecko}]}'
for how in --verify --story '--runs 3'; do
  # shellcheck disable=SC2086
  sim bad.yaml $how
  want 2 '^bad.yaml:3:16: operation 2 of the mix: ecko: '
done
sim $saved
want 2 "$saved: it is a saved run; give it to --replay or --shrink"
sim --shrink $saved --seconds 0
want 2 '--seconds 0: expected more than 0'
printf 'pools: [{module: load}]\nlimits: {events: 10}\n' >bad.yaml
sim bad.yaml
want 1 'check "limit" failed.*there are more than 10 events'
sim nowhere.yaml
want 2 'nowhere.yaml: No such file'
sim one.yaml --runs 0
want 2 'runs'
sim one.yaml one.yaml
want 2 'more than one scenario'
sim --verify --print
want 2 'do not go together'
sim one.yaml --runs 2 --story
want 2 'of one run'
sim one.yaml --html /nowhere/x.html
want 1 '/nowhere/x.html: No such file'
CHI_SIM_JOB=x sim one.yaml
want 2 'CHI_SIM_JOB'

# ---- what has failed once ------------------------------------------------------------------------

for kept in "$here"/tests/scenarios/*.yaml; do
  [ -e "$kept" ] || continue
  sim "$kept"
  want 0 ' 0 failed'
done

sum_up
