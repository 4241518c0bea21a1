#!/bin/sh
# run-demo.sh - what `make run` does: a real file goes from a client process through shared memory
# into a file-backed pool, survives a restart of the daemon, and comes back byte for byte.
#
# Needs CHIMAERA, the program. MIB=64 is the size of the file. Ends within two minutes.
set -eu
LC_ALL=C
export LC_ALL
here=$(cd "$(dirname "$0")/../.." && pwd)
: "${CHIMAERA:=$here/build/gcc-amalgam/chimaera}"
if ! [ -x "$CHIMAERA" ]; then
  echo "$CHIMAERA: is not there; make builds it, or set CHIMAERA" >&2
  exit 1
fi
: "${MIB:=64}"
temp=$(mktemp -d "${TMPDIR:-/var/tmp}/chimaera-run-XXXXXX")
instance=chimaera_run_$$:$((20000 + $$ % 20000))
pid=

finish()
{
  status=$?
  if [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null; then
    "$CHIMAERA" stop --instance "$instance" 1000 >/dev/null 2>&1 || kill -9 "$pid" 2>/dev/null || :
  fi
  if [ $status != 0 ] && [ -s "$temp/log" ]; then
    echo "the daemon's log:" >&2
    tail -n 20 "$temp/log" >&2
  fi
  rm -rf "$temp"
  exit $status
}
trap finish EXIT
trap 'exit 1' INT TERM HUP

say()
{
  printf '\n== %s\n' "$*"
}

fail()
{
  printf 'run-demo: %s\n' "$*" >&2
  exit 1
}

# Shows a command, and runs it for a minute at most; what it prints is also in $temp/output.
try()
{
  printf '$ chimaera %s\n' "$*"
  timeout 60 "$CHIMAERA" "$@" >"$temp/output" || fail "chimaera $1 failed with status $?"
  cat "$temp/output"
}

milliseconds()
{
  echo $(($(date +%s%N) / 1000000))
}

# $1: a key of the JSON object that the last command printed.
figure()
{
  sed -n "s/.*\"$1\":\([0-9.]*\).*/\1/p" "$temp/output"
}

begin()
{
  try start --config "$temp/node.yaml" --detach --pid-file "$temp/pid"
  pid=$(cat "$temp/pid")
}

# User and system time of the daemon in milliseconds, and its resident memory in MiB.
costs()
{
  cpu=$(awk -v hz="$(getconf CLK_TCK)" '{ sub(/.*\) /, ""); print int(($12 + $13) * 1000 / hz) }' \
    "/proc/$pid/stat")
  rss=$(awk '/^VmRSS/ { printf "%.1f", $2 / 1024 }' "/proc/$pid/status")
}

# The daemon has ended; whether its last remains have been collected is up to the init process.
gone()
{
  case $(sed 's/.*) //; s/ .*//' "/proc/$pid/stat" 2>/dev/null) in
  '' | Z | X) return 0 ;;
  *) return 1 ;;
  esac
}

# The daemon is asked to stop, and its process is gone.
end()
{
  costs
  try stop --instance "$instance"
  gone || sleep 1
  gone || fail "process $pid is still there"
  pid=
}

cat >"$temp/node.yaml" <<END
networking: {port: ${instance#*:}}
shared_memory: {main_segment_name: ${instance%:*}}
logging: {file: $temp/log}
compose:
- mod_name: bdev
  pool_name: $temp/device
  pool_query: local
  pool_id: "300.0"
  bdev_type: file
  capacity: $((MIB * 2 + 64))M
END

say "a file of $MIB MiB of random bytes, and a node with one block device, on a file"
head -c "${MIB}M" /dev/urandom >"$temp/file"
begin

say 'into the device, from another process'
try put "$temp/file" 300.0 --instance "$instance" --json
put=$(figure mib_per_s)
try status --instance "$instance"

say 'the daemon stops, and a new one takes over'
from=$(milliseconds)
end
put_cpu=$cpu put_rss=$rss
begin
restart=$(($(milliseconds) - from))

say 'and back'
try get 300.0 "$temp/back" --manifest "$temp/file.chi.json" --instance "$instance" --json
get=$(figure mib_per_s)
cmp "$temp/file" "$temp/back" || fail 'the file came back changed'
echo 'byte for byte the same'
end

say 'what it cost'
printf '%-36s %10s\n' \
  'put, allocated, written and synced' "$put MiB/s" \
  'stop and start again' "$restart ms" \
  'get, read and verified' "$get MiB/s" \
  "the daemon's CPU time, put" "$put_cpu ms" \
  "the daemon's CPU time, get" "$cpu ms" \
  "the daemon's resident memory, put" "$put_rss MiB" \
  "the daemon's resident memory, get" "$rss MiB"
