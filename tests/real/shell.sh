# shell.sh - what the scripts that run the program share: running it, and judging what it says.
#
# To be sourced by a script that has set CHIMAERA and temp, a directory of its own.
# shellcheck shell=bash source=tests/script.sh
. "${BASH_SOURCE[0]%/*}/../script.sh"
: "${temp:?}" "${CHIMAERA:?}" "${chi_seconds:=60}"

# Runs the program: its status in $status, what it prints in $temp/out and $temp/err.
chi()
{
  timeout "$chi_seconds" "$CHIMAERA" "$@" >"$temp/out" 2>"$temp/err" </dev/null
  status=$?
}

# $1: seconds; the rest: a command that is repeated until it succeeds, or the time is over.
within()
{
  local end=$((SECONDS + $1))
  shift
  until "$@" >"$temp/out.ok" 2>&1; do
    if [ $SECONDS -ge $end ]; then
      wrong "$*"
      return 1
    fi
    sleep 0.1
  done
  right
}

# The process is gone, or has ended and nobody has asked yet.
gone()
{
  local i
  for ((i = 0; i < 100; i++)); do
    case $(sed 's/.*) //; s/ .*//' "/proc/$1/stat" 2>/dev/null) in
    '' | Z | X) return 0 ;;
    esac
    sleep 0.05
  done
  return 1
}
