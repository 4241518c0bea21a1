#!/bin/sh
# running.sh - stories of clusters against daemons that run, one to three of them:
# CHI_WORLD=hostfile:PATH. What a story wants beside tasks from the first of them is skipped.
set -u
here=$(cd "$(dirname "$0")/../.." && pwd)
built=${BUILD:-$here/build/gcc-amalgam}
temp=$(mktemp -d)
pids='' passed=0 failed=0

finish()
{
  for pid in $pids; do
    kill -9 "$pid" 2>/dev/null
    wait "$pid" 2>/dev/null
  done
  pids=''
}
trap 'finish; rm -rf "$temp"' EXIT

# $1: node. Only that on "this host", which is node 0, has the default instance.
start()
{
  cat >"$temp/node$1.yaml" <<END
networking: {port: $port, hostfile: $temp/hosts}
logging: {file: $temp/node$1.log}
workers: {sched_threads: 1, slow_threads: 1}
memory: {main_segment_size: 64M, client_data_segment_size: 64M, runtime_data_segment_size: 64M}
END
  if [ "$1" != 0 ]; then
    echo "shared_memory: {main_segment_name: running-$$-$1}" >>"$temp/node$1.yaml"
  fi
  CHI_MODULE_PATH=$built/modules CHI_SERVER_CONF=$temp/node$1.yaml "$built/chimaera" start \
    --node "$1" >"$temp/node$1.out" 2>&1 &
  pids="$pids $!"
}

# $1: how many daemons, $2: which stories, $3: how many of them they tell at least. Others on this
# machine have other ports, as it follows from our number.
tell()
{
  port=$((20000 + ($$ * 3 + $1) % 10000))
  : >"$temp/hosts"
  for node in $(seq "$1"); do
    echo "node$((node - 1)) 127.0.0.$node" >>"$temp/hosts"
  done
  for node in $(seq "$1"); do
    start $((node - 1))
  done
  CHI_SERVER_CONF=$temp/node0.yaml CHI_NODE=0 CHI_WORLD=hostfile:$temp/hosts TEST_JOBS=1 \
    "$built/test-sim" "$2" >"$temp/said" 2>&1
  finish
  counts=$(sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed.*$/\1 \2/p' "$temp/said")
  counts=${counts:-0 1}
  [ "${counts% *}" -ge "$3" ] || counts="0 1"
  passed=$((passed + ${counts% *}))
  failed=$((failed + ${counts#* }))
  cat "$temp/said"
  [ "${counts#* }" = 0 ] || cat "$temp"/node*.out "$temp"/node*.log
}

tell 1 cluster_call 1
tell 2 cluster_ 3
tell 3 cluster_ 3
echo "$passed passed, $failed failed"
[ $failed = 0 ]
