# script.sh - for scripts of tests to source: what has passed and failed, and the closing line.
#
# What the last command printed is in $temp/out and $temp/err; a failure shows it.
# Nothing reads what the script was started with; a check reads what is handed to it alone.
# shellcheck shell=bash
exec </dev/null
passed=0 failed=0 skipped=0

right()
{
  passed=$((passed + 1))
}

# Called by a check, whose caller's line it tells.
wrong()
{
  failed=$((failed + 1))
  echo "FAIL line ${BASH_LINENO[1]}: $*"
  # shellcheck disable=SC2154
  sed 's/^/  | /' "$temp/out" "$temp/err" "$temp/out.ok" 2>/dev/null | tail -n 20
}

# A command that must succeed, or with "not" must fail.
ok()
{
  if "$@" >"$temp/out.ok" 2>&1; then right; else wrong "$*"; fi
}

not()
{
  ! "$@"
}

skip()
{
  skipped=$((skipped + 1))
  echo "skipped: $*"
}

# Its status is that of the script.
sum_up()
{
  if [ $skipped = 0 ]; then
    echo "$passed passed, $failed failed"
  else
    echo "$passed passed, $failed failed, $skipped skipped"
  fi
  [ $failed = 0 ]
}
