#!/bin/sh
# amalgamate.sh - tests the script that writes the one file, on a small tree of its own.
set -u
cd "$(dirname "$0")/../.." || exit 1
temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT
mkdir "$temp/sources" "$temp/sim" "$temp/out"
passed=0 failed=0

# $1: the words of a fault that amalgamate must find, or "" for none; the rest: its arguments.
expect()
{
  text=$1
  shift
  "$temp/amalgamate" "$@" >"$temp/output" 2>&1
  status=$?
  if [ -z "$text" ] && [ $status = 0 ]; then
    passed=$((passed + 1))
  elif [ -n "$text" ] && [ $status != 0 ] && grep -q -e "$text" "$temp/output"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "amalgamate $*: status $status, expected \"$text\"; said:"
    cat "$temp/output"
  fi
}

# $1: what is tested; the rest: a command that succeeds.
verify()
{
  label=$1
  shift
  if "$@"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "failed: $label"
  fi
}

# $1: the file that the tree's script is made of, with this manifest, on standard input.
manifest()
{
  awk -v list="$1" '
    /^manifest=/ { print "manifest=\047" list "\047"; skipping = 1; next }
    skipping { skipping = !/^\047$/; next }
    { print }' amalgamate >"$temp/amalgamate"
  chmod +x "$temp/amalgamate"
}

cat >"$temp/sources/chimaera.h" <<'END'
int chi_answer(void);
END
cat >"$temp/sources/base.h" <<'END'
#ifndef CHI_BASE_H
#define CHI_BASE_H
#include "chimaera.h"
#define CHI_PRIVATE static
#endif
END
cat >"$temp/sources/top.h" <<'END'
#include "base.h"
#include "leaf.h"
CHI_PRIVATE leaf top_number(void);
END
cat >"$temp/sources/top.c" <<'END'
#include "top.h"
#include "leaf.h"

#include <stdio.h>

CHI_PRIVATE leaf top_number(void)
{
  return 42;
}
int chi_answer(void)
{
  return top_number();
}
END
cat >"$temp/sources/leaf.h" <<'END'
#include "base.h"
typedef int leaf;
END
cat >"$temp/sources/real_x.c" <<'END'
#include "top.h"
int chi_real(void) { return 1; }
END
cat >"$temp/sim/sim.c" <<'END'
#include "top.h"
int chi_sim(void) { return 1; }
END
whole='sources/chimaera.h sources/base.h sources/top.h sources/top.c sources/leaf.h
sources/real_x.c sim/sim.c'

manifest "$whole"
expect 'chimaera.c is stale' --check
expect ''
expect '' --check
expect '' --list
verify 'list' [ "$(wc -l <"$temp/output")" = 7 ]
verify 'no project include but the public one' \
  [ "$(grep -c 'include "' "$temp/chimaera.c")" = 1 ]
verify 'system includes stay' grep -q '^#include <stdio.h>' "$temp/chimaera.c"
verify 'it compiles' gcc -Wall -Wextra -Werror -c "$temp/chimaera.c" -o "$temp/one.o"
verify 'with all of it' [ "$(nm --defined-only "$temp/one.o" | grep -c 'T chi_')" = 3 ]
gcc -DCHI_OMIT_REAL -DCHI_OMIT_SIM -c "$temp/chimaera.c" -o "$temp/one.o"
verify 'and parts left out' [ "$(nm --defined-only "$temp/one.o" | grep -c 'T chi_')" = 1 ]
expect '' --lines --output "$temp/out"
verify 'lines' grep -q '^#line 1 "sources/top.c"$' "$temp/out/chimaera.c"
echo 'int top_wrong(void) { return none; }' >>"$temp/sources/top.c"
expect '' --lines --output "$temp/out"
gcc -c "$temp/out/chimaera.c" -o "$temp/one.o" 2>"$temp/errors"
verify 'the compiler names the place' grep -q '^sources/top.c:14:' "$temp/errors"
expect 'chimaera.c is stale' --check
sed -i '$d' "$temp/sources/top.c"
expect '' --check
echo >"$temp/sources/new.c"
expect '+sources/new.c' --check
rm "$temp/sources/new.c"
manifest "$whole sources/gone.c"
expect 'gone.c: cannot be read' --output "$temp/out"
manifest "$(echo "$whole" | sed 's|sources/leaf.h||')"
expect 'includes "leaf.h", which is not in the manifest' --output "$temp/out"
manifest "$whole sim/top.c"
expect 'twice in the manifest' --output "$temp/out"
manifest "$whole"
echo '#include "top.h"' >>"$temp/sources/leaf.h"
expect 'includes itself' --output "$temp/out"
expect usage: --unknown
expect usage: --output
expect 'no such directory' --output "$temp/nowhere"
echo "$passed passed, $failed failed"
[ $failed = 0 ]
