#!/bin/bash
# test_habits.sh - what deployment tools of the field do with the programs, as they do it.
#
# They write a configuration of the first generation into a shared directory, name it in
# CHI_SERVER_CONF, find the programs in PATH, start and stop them on each node by ssh without a
# terminal, kill what is left, and clean up. Needs CHIMAERA, the program; closes with the counts.
set -u
LC_ALL=C
export LC_ALL
here=$(cd "$(dirname "$0")/../.." && pwd)
: "${CHIMAERA:=$here/build/gcc-amalgam/chimaera}"
if ! [ -x "$CHIMAERA" ]; then
  echo "$CHIMAERA: is not there; make builds it, or set CHIMAERA" >&2
  exit 1
fi
bin=$(cd "$(dirname "$CHIMAERA")" && pwd)
temp=$(mktemp -d "${TMPDIR:-/var/tmp}/chimaera-habits-XXXXXX") || exit 1
port=$((20000 + $$ % 20000))
pid=
variable=CHI_SERVER_CONF
# shellcheck source=tests/script.sh
. "$here/tests/script.sh"
conf=$temp/chimaera_config.yaml

# shellcheck disable=SC2317
finish()
{
  [ -z "$pid" ] || kill -9 "$pid" 2>/dev/null
  rm -rf "$temp"
}
trap finish EXIT

# A command as a remote shell without a terminal runs it: hardly any environment.
remote()
{
  timeout 60 env -i PATH="$bin:/usr/bin:/bin" HOME="$temp" "$variable=$conf" "$@" \
    >"$temp/out" 2>&1 </dev/null
  status=$?
}

# Starts the runtime in the background of a remote shell, as tools do that go on to the next node.
start()
{
  local i
  : >"$temp/out"
  env -i PATH="$bin:/usr/bin:/bin" HOME="$temp" "$variable=$conf" chimaera_start_runtime \
    >"$temp/out" 2>&1 </dev/null &
  pid=$!
  for ((i = 0; i < 600; i++)); do
    ! grep -q '^chimaera: ready: ' "$temp/out" || { right && return 0; }
    kill -0 $pid 2>/dev/null || break
    sleep 0.05
  done
  wrong 'it does not start'
  return 1
}

# $1: the status that the daemon ends with, within a minute.
ended()
{
  timeout 60 tail --pid=$pid -f /dev/null || kill -9 $pid
  wait $pid 2>/dev/null
  status=$?
  pid=
  want "$1"
}

# ---- configure, as the package for Jarvis does -------------------------------------------------

cat >"$conf" <<END_OF_FILE
# Worker thread configuration
workers:
  low_latency_threads: 1
  high_latency_threads: 1
  reinforcement_threads: 1
  process_reaper_threads: 1

# Memory segment configuration
memory:
  main_segment_size: 1073741824
  client_data_segment_size: 536870912
  runtime_data_segment_size: 536870912

# Network configuration
network:
  port: $port

# Logging configuration
logging:
  level: "debug"
  file: "$temp/chimaera.log"

# Performance tuning
performance:
  stack_size: 65536
  queue_depth: 10000

# Shared memory segment names
shared_memory:
  main_segment_name: "chi_main_segment_\${USER}"
  client_data_segment_name: "chi_client_data_segment_\${USER}"
  runtime_data_segment_name: "chi_runtime_data_segment_\${USER}"

# Runtime configuration
runtime:
  heartbeat_interval: 1000
  task_timeout: 30000
END_OF_FILE

remote sh -c 'command -v chimaera_start_runtime && command -v chimaera_stop_runtime'
want 0 /chimaera_stop_runtime

# ---- start, status, stop -----------------------------------------------------------------------

if start; then
  remote chimaera_start_runtime # twice by mistake: the first one goes on
  want 1 'is already served by process'
  # How tools look for it, and how they would kill it.
  remote pgrep -x -f chimaera_start_runtime
  if [ $status = 0 ] && grep -qx "$pid" "$temp/out"; then right; else wrong 'not to be found'; fi
  remote chimaera status
  want 0 ' serving '
  remote chimaera_compose "$conf"
  want 1 "has no pools under 'compose'"
  remote chimaera_stop_runtime
  want 0
  ended 0
fi
remote chimaera_stop_runtime
want 1 'no daemon'
remote chimaera_stop_runtime 1000
want 1 'no daemon'

# ---- kill, clean, and start at once ------------------------------------------------------------

if start; then
  kill -9 $pid
  ended 137
  remote sh -c "rm -f /dev/shm/chi_*_habits_$$ && rm -f \"\$HOME\"/*.log"
  want 0
  start
  remote chimaera_stop_runtime 100
  want 0
  ended 0
fi

# The other variable, and the signal of a tool that ends its remote shells.
variable=WRP_RUNTIME_CONF
if start; then
  remote chimaera call admin flush
  want 0 total_work_done
  kill -TERM $pid
  ended 0
fi
mkdir "$temp/.chimaera" && mv "$conf" "$temp/.chimaera/chimaera.yaml"
variable=NO_SUCH_VARIABLE # then it is the file below HOME
if start; then
  remote chimaera_stop_runtime
  want 0
  ended 0
fi

# ---- the unit for systemd ----------------------------------------------------------------------

if command -v systemd-analyze >/dev/null; then
  sed "s|@bindir@|$bin|" "$here/config/chimaera.service" >"$temp/chimaera.service"
  HOME=$temp systemd-analyze verify "$temp/chimaera.service" >"$temp/out" 2>&1
  status=$?
  want 0
  if [ -s "$temp/out" ]; then wrong 'systemd has something to say'; else right; fi
fi

sum_up
