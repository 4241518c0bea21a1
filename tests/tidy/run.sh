#!/bin/sh
# run.sh - tests the style test: run.sh TIDY. Each fault in bad/ must be reported, and nothing else.
set -eu
tidy=$(realpath "$1")
cd "$(dirname "$0")"
temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT
cp -r bad/. "$temp"

# What an editor would rather not keep: a long function in a long file; tabs, spaces, no last line.
awk 'BEGIN {
  print "/* long.c - too long. */\n#include \"base.h\"\nstatic int long_x(int x)\n{"
  for (i = 0; i < 68; i++)
    print "  x++;"
  print "}\nstatic int long_y(int x)\n{"
  for (i = 0; i < 69; i++)
    print "  x++;"
  print "}"
  for (i = 146; i <= 1000; i++)
    print ""
}' >"$temp/sources/long.c"
printf '#!/bin/sh\n# other.sh - a script.\n\techo tab\necho space \nno newline' \
  >"$temp/tests/spaces.sh"

cd "$temp"
status=0
"$tidy" <order >found || status=$?
if [ $status != 1 ]; then
  echo "status $status, want 1"
  exit 1
fi
diff expected found

# Clean files give nothing; no file and a missing one are errors.
grep -e chimaera -e base -e upper order >clean
sed -i '/open_it/d' sources/chimaera.h
sed -i '/lower.h/d; s/struct lower/struct upper/' sources/upper.h
"$tidy" <clean
if "$tidy" </dev/null 2>/dev/null; then
  echo 'satisfied with no files at all'
  exit 1
fi
status=0
echo sources/absent.c | "$tidy" 2>/dev/null || status=$?
[ $status = 2 ]
echo "$(($(wc -l <expected) + 4)) passed, 0 failed"
