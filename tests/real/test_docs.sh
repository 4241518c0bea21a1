#!/bin/sh
# test_docs.sh - does what README.md, docs/modules.md and simulation.md say, out of tree.
#
# Their code blocks become files (the name is in the first line), their shell blocks are run. Needs
# CHIMAERA, the program; closes with the counts.
set -u
here=$(cd "$(dirname "$0")/../.." && pwd)
: "${CHIMAERA:=$here/build/gcc-amalgam/chimaera}"
if ! [ -x "$CHIMAERA" ]; then
  echo "$CHIMAERA: is not there; make builds it, or set CHIMAERA" >&2
  exit 1
fi
temp=$(mktemp -d) || exit 1
trap '"$CHIMAERA" stop 1000 >/dev/null 2>&1; rm -rf "$temp"' EXIT
passed=0 failed=0

PATH=$(dirname "$CHIMAERA"):$PATH
CHI_SERVER_CONF=$temp/node.yaml
export PATH CHI_SERVER_CONF
printf 'networking: {port: %s}\nshared_memory: {main_segment_name: docs%s}\nlogging: {file: %s}\n' \
  $((20000 + $$ % 20000)) $$ "$temp/log" >"$CHI_SERVER_CONF"

# $1: what is tested; the rest: a command.
check()
{
  what=$1
  shift
  if "$@"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "FAIL $what"
    sed 's/^/  | /' "$temp/output" 2>/dev/null | tail -n 30
  fi
}

# $1: a document, $2: a directory for its files and for run.sh, its shell blocks.
extract()
{
  mkdir -p "$2" && "$here/amalgamate" --output "$2" && awk -v dir="$2" '
    /^```$/ { file = ""; block = 0; next }
    /^```sh$/ { file = dir "/run.sh"; block = 1; next }
    /^```(c|yaml)$/ { file = ""; block = 1; next }
    block && file == "" && ($1 == "/*" || $1 == "#") && $3 == "-" { file = dir "/" $2 }
    file != "" { print >file }' "$1"
}

# $1: a directory. Each command must succeed.
run()
{
  (cd "$1" && timeout 120 sh -eux run.sh) >"$temp/output" 2>&1 </dev/null
}

says()
{
  grep -qxF "$1" "$temp/output"
}

# What the README shows is what examples/calc has.
same_as_examples()
{
  for file in calc.h calc.c calc_client.c; do
    diff "$temp/readme/$file" "$here/examples/calc/$file" || return
  done
}

same_as_tally()
{
  diff "$temp/simulation/tally_test.c" "$here/examples/tally/tally_test.c"
}

# The story of a seed is told again in the same words.
tells_again()
{
  (cd "$temp/simulation" && ./tally_test 7 | cmp - story.txt)
}

check 'README.md: its files' extract "$here/README.md" "$temp/readme"
check 'README.md: its commands' run "$temp/readme"
check 'README.md: the client' says '2 + 3 = 5'
check 'README.md: the call' says '{"sum":42}'
check 'README.md: same as examples/calc' same_as_examples
check 'modules.md: its files' extract "$here/docs/modules.md" "$temp/modules"
check 'modules.md: its commands' run "$temp/modules"
check 'modules.md: the call' says '{"text":"Good morning, world!","number":1}'
check 'modules.md: its figures' grep -q '^  510\.0  greeted  *1$' "$temp/output"
check 'modules.md: a node in the program' says 'Hello, world!'
check 'simulation.md: its files' extract "$here/docs/simulation.md" "$temp/simulation"
check 'simulation.md: its commands' run "$temp/simulation"
check 'simulation.md: the sweep' says '20 seeds: nothing is lost, nothing counts twice'
check 'simulation.md: the story' tells_again
check 'simulation.md: same as examples/tally' same_as_tally

echo "$passed passed, $failed failed"
[ $failed = 0 ]
