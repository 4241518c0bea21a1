#!/bin/sh
# run.sh - plants one bug after the other in a copy of the core, and sees whether the sweep notices.
#
# usage: tests/mutants/run.sh BUILD [NAME...]
#
# BUILD is where `sweep` and libchimaera-modular.a were built. Each mutant is a patch beside this
# script, whose first line says what it breaks. Two processes run seeds from 1 on until a run fails:
# that is a kill. A name is a part of a patch's name; "none" is the core as it is, which must stand
# as many seconds as the slowest kill took. MUTANT_SECONDS=120 for each, MUTANT_SHRINK=10 more to
# make the run small. Prints "N passed, M failed"; the exit status is 0 only if M is.
set -u
cd "$(dirname "$0")/../.." || exit 1
LC_ALL=C
export LC_ALL

build=$1
shift
wanted=${*:-}
cc=${CC:-gcc}
seconds=${MUTANT_SECONDS:-120}
shrink=${MUTANT_SHRINK:-10}
dir=$build/mutants
libraries=$(make -s print-libraries)
passed=0 failed=0 slowest=30
mkdir -p "$dir"

# $1: a name. Is it asked for?
is_wanted()
{
  [ -n "$wanted" ] || return 0
  for part in $wanted; do
    case $1 in
    *"$part"*) return 0 ;;
    esac
  done
  return 1
}

# $1: patch. Leaves $dir/sweep.
plant()
{
  rm -rf "$dir/tree"
  mkdir -p "$dir/tree"
  cp -r sources sim "$dir/tree/"
  patch -s -p1 --fuzz=3 -d "$dir/tree" <"$1" || return
  cp "$build/libchimaera-modular.a" "$dir/lib.a"
  # shellcheck disable=SC2013
  for file in $(grep '^+++ b/' "$1" | cut -c7-); do
    case $file in
    *.c) ;;
    *) echo "$1 changes $file: only .c files are compiled anew" && return 1 ;;
    esac
    object=$(basename "$file" .c).o
    "$cc" -std=c11 -O1 -g -w -fPIC -pthread -I"$dir/tree/sources" -I"$dir/tree/sim" \
      -c "$dir/tree/$file" -o "$dir/$object" && ar r "$dir/lib.a" "$dir/$object" || return
  done
  # shellcheck disable=SC2086
  "$cc" -rdynamic "$build"/tests/sweep/*.o "$build/tests/sim/bdev_shadow.o" -Wl,--whole-archive \
    "$dir/lib.a" -Wl,--no-whole-archive $libraries -o "$dir/sweep"
}

# $1: patch.
mutant()
{
  name=$(basename "$1" .patch)
  if ! plant "$1" >"$dir/log" 2>&1; then
    echo "FAILED $name: it no longer applies, or does not build"
    cat "$dir/log"
    failed=$((failed + 1))
    return
  fi
  began=$(date +%s)
  "$dir/sweep" --jobs 2 --seconds "$seconds" --shrink "$shrink" >"$dir/$name.log" 2>&1
  if grep -q '^FAILED seed' "$dir/$name.log"; then
    passed=$((passed + 1))
    took=$(sed -n 's/^FAILED seed .* and \([0-9]*\)\.[0-9]* s: .*/\1/p' "$dir/$name.log")
    [ "$took" -le "$slowest" ] || slowest=$took
    echo "killed $name: $(head -n 1 "$1")"
    sed -n 's/^FAILED /  /p; s/^shrunk /  shrunk /p' "$dir/$name.log"
  else
    failed=$((failed + 1))
    echo "FAILED $name survives $(($(date +%s) - began)) s: $(head -n 1 "$1")"
    tail -n 1 "$dir/$name.log"
  fi
}

for file in tests/mutants/*.patch; do
  ! is_wanted "$(basename "$file")" || mutant "$file"
done

if is_wanted none; then
  if "$build/sweep" --jobs 2 --seconds "$slowest" --shrink "$shrink" >"$dir/none.log" 2>&1; then
    passed=$((passed + 1))
    echo "the core as it is stands: $(tail -n 1 "$dir/none.log")"
  else
    failed=$((failed + 1))
    echo 'FAILED the core as it is:'
    cat "$dir/none.log"
  fi
fi

small=$(cat "$dir"/*.log | grep -c '^shrunk to [23] nodes and [0-5] faults')
all=$(cat "$dir"/*.log | grep -c '^shrunk to ')
echo "$small of $all were shrunk to at most 3 nodes and 5 faults"
echo "$passed passed, $failed failed"
[ $failed = 0 ]
