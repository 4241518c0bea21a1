#!/bin/bash
# test_metrics.sh - watching: a cluster seen from one node, and its figures in a real Prometheus.
#
# Needs CHIMAERA, the program; closes with the counts. What needs Prometheus is skipped without it.
set -u
LC_ALL=C
export LC_ALL
here=$(cd "$(dirname "$0")/../.." && pwd)
: "${CHIMAERA:=$here/build/gcc-amalgam/chimaera}"
if ! [ -x "$CHIMAERA" ]; then
  echo "$CHIMAERA: is not there; make builds it, or set CHIMAERA" >&2
  exit 1
fi
temp=$(mktemp -d "${TMPDIR:-/var/tmp}/chimaera-metrics-XXXXXX") || exit 1
# shellcheck source=tests/real/shell.sh
. "$here/tests/real/shell.sh"
name=metrics_$$ port=$((20000 + $$ % 10000))
PATH=$PATH:$here/build/prometheus
unset NOTIFY_SOCKET CHI_MODULE_PATH CHI_NODE CHI_SERVER_CONF
exporter='' prometheus=''

# shellcheck disable=SC2317
finish()
{
  local file
  [ -z "$exporter" ] || kill -9 "$exporter" 2>/dev/null
  [ -z "$prometheus" ] || kill -9 "$prometheus" 2>/dev/null
  for file in "$temp"/pid*; do
    [ ! -s "$file" ] || kill -9 "$(cat "$file")" 2>/dev/null
  done
  rm -rf "$temp"
}
trap finish EXIT

# $1: a node of three. Starts its daemon.
start()
{
  CHI_NODE=$1 chi start --detach --config "$temp/node$1.yaml" --pid-file "$temp/pid$1"
}

for node in 0 1 2; do
  echo "127.0.0.$((node + 1))" >>"$temp/hosts"
  cat >"$temp/node$node.yaml" <<END
networking: {port: $port, hostfile: $temp/hosts, wait_for_restart: 2s}
workers: {sched_threads: 1, slow_threads: 1}
memory:
  main_segment_size: 64M
  client_data_segment_size: 64M
  runtime_data_segment_size: 64M
shared_memory: {main_segment_name: $name.$node}
logging: {file: $temp/log$node}
runtime: {heartbeat_interval: 500ms}
END
done
cat >>"$temp/node0.yaml" <<END
compose:
- mod_name: bdev
  pool_name: 'r"a\\m'
  pool_query: dynamic
  pool_id: "300.0"
  bdev_type: ram
  capacity: 4M
END
at0=(--instance "$name.0:$port")

# The rest are options. All three nodes are alive to the one that is asked, and answer.
sees_all()
{
  chi status --cluster --timeout 10s "$@"
  grep -q ': 3 alive, 3 answer$' "$temp/out"
}

# The page of one collection is in $temp/out, and in it all nodes think well of each other.
collects_all()
{
  chi metrics --once --cluster --timeout 10s "${at0[@]}"
  [ "$(grep -c '^chimaera_members{node="[012]",state="alive"} 3$' "$temp/out")" = 3 ]
}

# $1: a sample's name with its labels, in the page of $temp/page.
sample()
{
  grep -F "$1 " "$temp/page" | grep -v '^#' | sed 's/.* //'
}

# ---- used badly ---------------------------------------------------------------------------------

for bad in 'x:y' ':9655' '127.0.0.1:' '127.0.0.1:65536' '::1:9655' '[::1]' '[]:1' '127.0.0.1:1 '; do
  chi metrics --listen "$bad" "${at0[@]}"
  want 2 'expected ADDRESS:PORT'
done
chi metrics --listen 198.51.100.7:0
want 1 'cannot listen on 198.51.100.7'
chi metrics --once --listen 127.0.0.1:0
want 2 'exclude each other'
chi metrics --timeout 0
want 2 'expected 1ms to 60s'
chi metrics stray
want 2 'takes no arguments'
for command in status top; do
  chi $command --cluster "${at0[@]}"
  want 1 'no daemon'
done
chi metrics --once "${at0[@]}"
want 1 'no daemon' '^chimaera_up 0$'

# ---- a cluster from one node --------------------------------------------------------------------

for node in 0 1 2; do
  start $node
  want 0 '^chimaera: ready'
done
within 60 sees_all "${at0[@]}"
want 0 'node 0 of 3: ' '^ *0  127.0.0.1  serving ' '^ *2  127.0.0.3  serving ' \
  '^  300.0  r"a.m  bdev    *3/3 '
chi status --cluster "${at0[@]}" --timeout 10s --json
want 0 '^{"asked":0,"nodes":\[{"node":0,"host":"127.0.0.1","state":"alive","answer":"fresh"'
chi top --cluster "${at0[@]}" --count 2 --interval 100ms
want 0 'tasks/s'
ok test "$(grep -c '^nodes$' "$temp/out")" = 2
chi top --cluster "${at0[@]}" --interval 100ms --json
want 0 '^{"asked":0,'
# From another node, and for itself alone.
within 60 sees_all --instance "$name.1:$port"
want 0 'node 1 of 3: '
chi status --instance "$name.1:$port"
want 0 '^ *0  127.0.0.1  alive '

# ---- the page -----------------------------------------------------------------------------------

# What is called is counted, by whoever ran it; the numbers are those of status.
chi metrics --once --timeout 10s "${at0[@]}"
want 0 '^chimaera_up 1$' '^chimaera_node_up{node="0"} 1$' \
  '^chimaera_pool_ready{node="0",pool="300.0",name="r\\"a\\\\m",module="bdev"} 1$'
cp "$temp/out" "$temp/page"
stats='node="2",pool="300.0",name="r\"a\\m",method="chi_bdev_get_stats"'
ok test -z "$(sample "chimaera_method_calls_total{$stats}")"
for ((i = 0; i < 40; i++)); do
  chi call "${at0[@]}" 300.0 get_stats --query physical:2
done
want 0
chi call "${at0[@]}" 300.0 allocate_blocks size=1G
want 1
within 60 collects_all
want 0 '^chimaera_node_up{node="2"} 1$' \
  '^chimaera_peer_alive{node="2",peer="1"} 1$' \
  '^chimaera_task_failures_total{node="0",code="CHI_ENOSPC"} 1$' \
  '^chimaera_method_errors_total{.*method="chi_bdev_allocate_blocks"} 1$' \
  '^chimaera_module_figure{node="1",.*figure="measured.capacity"} 4194304$'
cp "$temp/out" "$temp/page"
ok test "$(sample "chimaera_method_calls_total{$stats}")" = 40
timed=$(sample "chimaera_method_duration_seconds_count{$stats}")
ok test "$timed" -ge 2 -a "$timed" -le 3
ok test "$(sample "chimaera_method_duration_seconds_bucket{$stats,le=\"+Inf\"}")" = "$timed"
# This node asked 40 times, and asks the other two for their figures now and then.
ok test "$(sample 'chimaera_remote_call_duration_seconds_count{node="0"}')" -ge 40
ok test "$(sample 'chimaera_remote_calls_total{node="0"}')" -ge 40
ok test "$(sample 'chimaera_memory_budget_bytes{node="1",segment="main"}')" = 67108864
# Nothing is there twice: neither a sample nor the head of a metric.
ok not grep . <(sed 's/ [^ ]*$//' "$temp/page" | grep -v '^# HELP' | sort | uniq -d)

# ---- the exporter -------------------------------------------------------------------------------

"$CHIMAERA" metrics --listen 127.0.0.1:0 --cluster --timeout 3s "${at0[@]}" >"$temp/serves" \
  2>"$temp/complaint" &
exporter=$!
within 20 grep -q 'ready: http://127.0.0.1:[0-9]*/metrics$' "$temp/serves"
url=$(sed -n 's/.*ready: //p' "$temp/serves")
address=${url#http://}
address=${address%/metrics}

# The rest are words for curl: status, type and Allow in $temp/head, what comes in $temp/page.
fetch()
{
  curl -s -m 30 -o "$temp/page" -D "$temp/head" "$@" "$url"
  status=$?
  tr -d '\r' <"$temp/head" >"$temp/out"
  : >"$temp/err"
}

# $1: a line that the page must have.
tells()
{
  fetch && grep -q -x -F "$1" "$temp/page"
}

within 30 tells 'chimaera_up 1'
want 0 '^HTTP/1.1 200' '^Content-Type: text/plain; version=0.0.4'
fetch -I
want 0 '^HTTP/1.1 200'
for method in POST PUT DELETE OPTIONS BREW; do
  fetch -X $method
  want 0 '^HTTP/1.1 405' '^Allow: GET, HEAD$'
done
fetch -X POST -H 'Expect:' --data-binary "@$CHIMAERA"
ok grep -q '^HTTP/1.1 405' "$temp/out"
fetch -X GET --data-binary "@$temp/hosts"
want 0 '^HTTP/1.1 200'
url=$url/x fetch
want 0 '^HTTP/1.1 404'
url=http://$address/ fetch
want 0 '^HTTP/1.1 404'
url="http://$address/metrics?debug=1" fetch
want 0 '^HTTP/1.1 200'
fetch -H "X-Long: $(head -c 40000 /dev/zero | tr '\0' x)"
ok not grep -q '^HTTP/1.1 200' "$temp/out"
chi metrics --listen "$address" "${at0[@]}"
want 1 'cannot listen on 127.0.0.1 port [0-9]*: Address already in use'

# Noise, and connections on which nothing comes: others are served all the same.
for text in '\0\0\0\0' 'GET' 'GET /metrics HTTP/9.9\r\n\r\n' '\377\376\r\n\r\n'; do
  # shellcheck disable=SC2059
  printf "$text" >"/dev/tcp/${address/://}" 2>/dev/null
done
idle=()
for ((i = 0; i < 100; i++)); do
  { exec {fd}<>"/dev/tcp/${address/://}"; } 2>/dev/null && idle+=("$fd")
done
ok test ${#idle[@]} -gt 16
fetch --interface 127.0.0.9
want 0 '^HTTP/1.1 200'
ok test "$(find "/proc/$exporter/fd" -lname 'socket:*' | wc -l)" -lt 70
for fd in "${idle[@]}"; do
  exec {fd}>&-
done
within 30 tells 'chimaera_up 1'
for ((i = 0; i < 8; i++)); do
  curl -s -m 30 -o "$temp/page$i" "$url" &
  fetches[i]=$!
done
for ((i = 0; i < 8; i++)); do
  ok wait "${fetches[i]}"
  ok grep -q '^chimaera_up [01]$' "$temp/page$i"
done

# ---- a real Prometheus --------------------------------------------------------------------------

# $1: an expression, $2: the only value that it must have.
knows()
{
  local value="\"value\":\[[0-9.]*,\"$2\"\]"
  curl -s -m 10 -G "$api" --data-urlencode "query=$1" |
    grep -q "^{\"status\":\"success\",.*\"result\":\[{\"metric\":[^[]*$value}\]"
}

if command -v prometheus promtool >/dev/null; then
  within 30 tells 'chimaera_up 1'
  ok promtool check metrics <"$temp/page"
  # What is wrong on a page is noticed.
  sed 's/^\(# TYPE chimaera_.*_total\) counter$/\1 gauge/' "$temp/page" >"$temp/wrong"
  ok not promtool check metrics <"$temp/wrong"
  chi metrics --once --timeout 10s "${at0[@]}"
  ok promtool check metrics <"$temp/out"
  chi metrics --once --instance "no.$name:$port"
  ok promtool check metrics <"$temp/out"
  ok promtool check config "$here/config/prometheus.yml"
  sed "s/127.0.0.1:9655/$address/; s/: 15s/: 1s/; s|chimaera_alerts|$here/config/&|" \
    "$here/config/prometheus.yml" >"$temp/prometheus.yml"
  web=127.0.0.1:$((30000 + $$ % 10000)) api=''
  api=http://$web/api/v1/query
  prometheus --config.file="$temp/prometheus.yml" --storage.tsdb.path="$temp/tsdb" \
    --web.listen-address="$web" >"$temp/prometheus.log" 2>&1 &
  prometheus=$!
  within 120 knows chimaera_up 1
  within 60 knows 'sum(chimaera_node_up)' 3
  within 60 knows 'chimaera_method_calls_total{node="2",method="chi_bdev_get_stats"}' 40
  within 60 knows \
    'count(histogram_quantile(0.99, chimaera_remote_call_duration_seconds_bucket))' 3
  within 60 knows 'count(up{job="chimaera"} == 1)' 1
else
  skip 'no prometheus here; tools/setup check fetches it'
fi

# ---- bad days -----------------------------------------------------------------------------------

# A node that stands still is silent, then dead, and holds up nothing.
kill -STOP "$(cat "$temp/pid2")"
began=$SECONDS
within 30 tells 'chimaera_node_up{node="1"} 1'
ok grep -q '^chimaera_node_up{node="2"} 0$' "$temp/page"
ok not grep -q '^chimaera_uptime_seconds{node="2"}' "$temp/page"
chi status --cluster "${at0[@]}" --timeout 2s
want 0 '^ *2  127.0.0.3  \(silent\|suspected\|dead\|fails\)' '^ *1  127.0.0.2  '
chi top --cluster "${at0[@]}" --plain --interval 100ms
want 0 '^ *2  127.0.0.3  \(silent\|suspected\|dead\|fails\)'
ok test $((SECONDS - began)) -lt 60
within 60 tells 'chimaera_members{node="0",state="dead"} 1'
chi status --cluster "${at0[@]}"
want 0 '^ *2  127.0.0.3  dead ' '^  node 2 is dead to node 1'
[ -z "$prometheus" ] || within 60 knows 'chimaera_node_up == 0' 0
kill -CONT "$(cat "$temp/pid2")"
within 60 tells 'chimaera_node_up{node="2"} 1'

# The daemon that is asked stands still: the page comes all the same, and says so.
kill -STOP "$(cat "$temp/pid0")"
ok tells 'chimaera_up 0'
ok not grep -q chimaera_node_up "$temp/page"
kill -CONT "$(cat "$temp/pid0")"
within 60 tells 'chimaera_up 1'

# It is killed, and comes back.
kill -9 "$(cat "$temp/pid0")"
within 60 tells 'chimaera_up 0'
ok kill -0 "$exporter"
[ -z "$prometheus" ] || within 60 knows chimaera_up 0
start 0
want 0
within 60 tells 'chimaera_up 1'
[ -z "$prometheus" ] || within 60 knows chimaera_up 1
within 60 sees_all "${at0[@]}"
ok grep -q 'no figures: ' "$temp/complaint"
ok grep -q 'the daemon answers again' "$temp/complaint"

# ---- the end ------------------------------------------------------------------------------------

if [ -n "$prometheus" ]; then
  kill -TERM "$prometheus"
  wait "$prometheus"
  prometheus=''
fi
kill -TERM "$exporter"
wait "$exporter"
status=$?
exporter=''
want 0
"$CHIMAERA" metrics --listen '[::1]:0' "${at0[@]}" >"$temp/serves" 2>"$temp/complaint" &
exporter=$!
if within 20 grep -q -e 'ready: http://\[::1\]:[0-9]*/metrics$' -e 'cannot listen' "$temp/serves" \
  "$temp/complaint"; then
  kill -INT "$exporter"
fi
wait "$exporter"
exporter=''
for node in 0 1 2; do
  chi stop --instance "$name.$node:$port"
  want 0
done

sum_up
