#!/bin/bash
# test_calibrate.sh - chimaera calibrate: it measures, its profile loads everywhere, and what a
# simulation predicts with it is of the right size. How near it comes is printed, not judged.
#
# Needs CHIMAERA, the program; closes with the counts.
set -u
LC_ALL=C
export LC_ALL
here=$(cd "$(dirname "$0")/../.." && pwd)
: "${BUILD:=$here/build/gcc-amalgam}" "${CHIMAERA:=$BUILD/chimaera}"
if ! [ -x "$CHIMAERA" ]; then
  echo "$CHIMAERA: is not there; make builds it" >&2
  exit 1
fi
case $CHIMAERA in
/*) ;;
*) CHIMAERA=$PWD/$CHIMAERA ;;
esac
temp=$(mktemp -d "${TMPDIR:-/var/tmp}/chimaera-calibrate-XXXXXX") || exit 1
trap 'rm -rf "$temp"' EXIT
cd "$temp" || exit 1
chi_seconds=300
# shellcheck source=tests/real/shell.sh
. "$here/tests/real/shell.sh"
unset CHI_SERVER_CONF WRP_RUNTIME_CONF CHI_NODE

# $1: a name within the JSON of --compare; $2: predicted or measured. Its whole number.
figure()
{
  sed -n "s/.*\"$1\":{[^}]*\"$2\":\([0-9]*\).*/\1/p" out
}

# It lies between a tenth of the other and ten times it.
near()
{
  local predicted measured
  predicted=$(figure "$1" predicted) measured=$(figure "$1" measured)
  if [ "${predicted:-0}" -gt $((${measured:-0} / 10)) ] &&
    [ "${predicted:-0}" -lt $((${measured:-0} * 10)) ]; then
    status=0
  else
    status="predicted ${predicted:-nothing}, measured ${measured:-nothing}"
  fi
  echo "$1: predicted $predicted, measured $measured"
  want 0
}

# ---- it measures, and its profile loads ----------------------------------------------------------

chi calibrate --out machine.yaml --compare --json --rounds 1 --seconds 0.2 --directory .
want 0 '"hash":"[0-9a-f]*"'
near latency_ns
near rate
hash=$(sed 's/.*"hash":"\([0-9a-f]*\)".*/\1/' out)

chi calibrate --spec machine.yaml
want 0 '^step=[0-9]*ns,budget=64,task=[0-9]*ns,.*latency=[0-9]*ns,byte_ps=[0-9]*$'

chi sim --profile machine.yaml --story --seed 3
want 0 'seed 3: all is well'
story=$(grep -o 'hash [0-9a-f]*' err)
chi sim --profile machine.yaml --story --seed 3
want 0 "$story"
chi sim --story --seed 3
status=$(grep -c "$story" err)
want 0

# The scenario it prints has the costs in it, and is the same run.
chi sim --profile machine.yaml --seed 3 --print
want 0 '^costs: {'
cp out scenario.yaml
chi sim scenario.yaml --story
want 0 "$story"

# ---- one profile, one prediction -----------------------------------------------------------------

for seconds in 0.05 0.06; do
  chi calibrate --profile machine.yaml --compare --json --rounds 1 --seconds $seconds --directory .
  want 0 "\"hash\":\"$hash\""
done
chi calibrate --profile machine.yaml --compare --rounds 1 --seconds 0.05 --directory .
want 0 '^round trip ' '^tasks, 64 in flight '

# ---- what is wrong -------------------------------------------------------------------------------

printf 'costs:\n  step: 1us\n  stepp: 2us\n' >wrong.yaml
chi sim --profile wrong.yaml --story
want 2 '^chimaera sim: wrong.yaml:3:3: no such cost: "stepp"'
chi calibrate --spec wrong.yaml
want 1 '^chimaera calibrate: wrong.yaml:3:3: no such cost: "stepp"'
printf 'costs: {step: fast}\n' >wrong.yaml
chi sim --profile wrong.yaml --story
want 2 'wrong.yaml:1:15: step: expected a time in ns from 0 to [0-9]*, found "fast"'
printf 'costs: {budget: 0}\n' >wrong.yaml
chi sim --profile wrong.yaml --story
want 2 'wrong.yaml:1:17: budget: expected a whole number from 1 to 65536, found "0"'
printf 'costs: {latency: soon}\n' >wrong.yaml
chi sim --profile wrong.yaml --story
want 2 'wrong.yaml:1:18: latency: expected a time, found "soon"'
printf 'costs: {nodes: 7}\n' >wrong.yaml # a key of a cluster, and no cost
chi sim --profile wrong.yaml --story
want 2 'wrong.yaml:1:9: no such cost: "nodes"'
cp wrong.yaml nodes.yaml
for text in 'cost: {step: 1us}' 'costs: [step]' 'costs: {step: [1]}' '- step' 'costs: {"a=b": 1}' \
  'costs: {' '' 'costs: {a: 1}
more: 1'; do
  printf '%s\n' "$text" >wrong.yaml
  chi calibrate --spec wrong.yaml
  want 1 '^chimaera calibrate: wrong.yaml:[0-9]*:[0-9]*: '
done
chi calibrate --spec missing.yaml
want 1 'missing.yaml: No such file'
chi calibrate --rounds 0
want 2 '--rounds'
chi calibrate --seconds 1ns
want 2 '--seconds: expected 1ms at least'
chi calibrate --directory /no/such
want 1 '/no/such'
# Before a minute of measuring, not after it.
chi_seconds=5
chi calibrate --out /no/such/file --rounds 100 --directory .
want 1 '/no/such/file: No such file'
chi calibrate --out . --rounds 100 --directory .
want 1 'calibrate: .: Is a directory'
chi calibrate --compare --profile missing.yaml --rounds 100 --directory .
want 1 'missing.yaml: No such file'
chi calibrate --compare --profile nodes.yaml --rounds 100 --directory .
want 1 'nodes.yaml:1:9: '
chi calibrate --profile machine.yaml --rounds 100 --directory .
want 2 '--profile is for --compare'
chi calibrate --spec machine.yaml --out copy.yaml
want 2 '--spec measures nothing, and takes no other option'
ok not test -e copy.yaml
cp machine.yaml kept.yaml
chi calibrate --out kept.yaml --directory /no/such
want 1 '/no/such'
ok cmp machine.yaml kept.yaml
chi calibrate extra
want 2 'takes no arguments'

sum_up
