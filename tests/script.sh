# script.sh - for scripts of tests to source: what has passed and failed, and the closing line.
#
# What the last command printed is in $temp/out and $temp/err; a failure shows it. Its status is in
# $status.
# Nothing reads what the script was started with; a check reads what is handed to it alone.
# shellcheck shell=bash
exec </dev/null
passed=0 failed=0 skipped=0 status=0
: "${want_by:=}" # how want compares: without it patterns, -F texts, -xF whole lines

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

# $1: the status that the last command should have had; the rest: what must be in its output.
want()
{
  local text
  if [ "$status" != "$1" ]; then
    wrong "status $status, want $1"
    return
  fi
  shift
  for text in "$@"; do
    if ! cat "$temp/out" "$temp/err" 2>/dev/null | grep -q ${want_by:+"$want_by"} -e "$text"; then
      wrong "no line like: $text"
      return
    fi
  done
  right
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
