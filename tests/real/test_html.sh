#!/bin/bash
# test_html.sh - the page of a simulated run, opened in a browser, where it tries itself.
#
# Needs CHIMAERA, the program, and chromium: without it the test is skipped. Closes with the counts.
set -u
LC_ALL=C
export LC_ALL
here=$(cd "$(dirname "$0")/../.." && pwd)
: "${CHIMAERA:=$here/build/gcc-amalgam/chimaera}"
temp=$(mktemp -d "${TMPDIR:-/var/tmp}/chimaera-html-XXXXXX") || exit 1
trap 'rm -rf "$temp"' EXIT

skip()
{
  echo "skipped: $*"
  echo '0 passed, 0 failed, 1 skipped'
  exit 0
}

browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome) ||
  skip 'no chromium'
"$CHIMAERA" sim --help 2>/dev/null | grep -q -e --html || skip 'chimaera has no sim --html'
timeout 60 "$CHIMAERA" sim --seed 7 --html "$temp/run.html" >"$temp/out" 2>&1 </dev/null || {
  cat "$temp/out"
  echo '0 passed, 1 failed'
  exit 1
}
# The same run, as if a check had failed at an event of it.
sed 's/^"failure":null,/"failure":{"check":"P0","why":"planted","event":2000,"time":1},/' \
  "$temp/run.html" >"$temp/failed.html"

passed=0 failed=0
for page in run failed; do
  timeout 120 "$browser" --headless --no-sandbox --disable-gpu --user-data-dir="$temp/profile" \
    --window-size=1600,1000 --dump-dom "file://$temp/$page.html?selftest" 2>/dev/null </dev/null |
    sed -n '/id="selftest"/,/<\/pre>/p' | sed 's/<[^>]*>//g' >"$temp/$page.said"
  grep -e '^FAIL' -e '^draws' "$temp/$page.said"
  count=$(sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p' "$temp/$page.said")
  if [ -z "$count" ]; then
    echo "FAIL $page.html says nothing"
    count='0 1'
  fi
  passed=$((passed + ${count% *})) failed=$((failed + ${count#* }))
done
grep -q 'pass the failure is in the middle' "$temp/failed.said" || failed=$((failed + 1))
echo "$passed passed, $failed failed"
[ $failed = 0 ]
