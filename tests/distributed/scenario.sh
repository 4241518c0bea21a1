#!/bin/sh
# scenario.sh - what a cluster goes through, in steps; the same on every kind of hosts. Sourced by
# run-distributed-test.sh, with the hosts' functions at hand; `shared`, `inside`, `hosts`, `nodes`
# are set. A step is a function; the last line that it prints is what it has to say.
# shellcheck disable=SC2034,SC2154

passed=0
failed=0
clients=0
# For so many seconds nodes wait for one that is gone. Its restart takes the longer, the more of
# them share this machine.
patience=$((2 + 4 * nodes))

milliseconds()
{
  echo $(($(date +%s%N) / 1000000))
}

# $1: what is tested; the rest is a command. One line; and all that was printed, if it fails.
step()
{
  text=$1
  shift
  began=$(milliseconds)
  if "$@" >"$shared/log/step" 2>&1 </dev/null; then
    status=0
  else
    status=$?
  fi
  took=$(($(milliseconds) - began))
  if [ $status = 0 ]; then
    passed=$((passed + 1))
    result=ok
    said=$(tail -n 1 "$shared/log/step")
  else
    failed=$((failed + 1))
    result=FAILED
    said="status $status"
  fi
  printf '%-6s %3d.%d s  %s%s\n' $result $((took / 1000)) $((took % 1000 / 100)) "$text" \
    "${said:+: $said}"
  [ $status = 0 ] || tail -n 40 "$shared/log/step" | sed 's/^/  | /'
  return $status
}

# $1: seconds; the rest is a command that is to succeed within them.
wait_for()
{
  tries=$(($1 * 10))
  shift
  until "$@"; do
    tries=$((tries - 1))
    [ $tries -gt 0 ] || return
    sleep 0.1
  done
}

# ---- what nodes need ---------------------------------------------------------------------------

# The list of nodes: $1 is plain for one address a line, or named for name and address.
write_hostfile()
{
  for host in $hosts; do
    case $1 in
    plain) echo "172.28.0.$((host + 1))" ;;
    named) echo "node$host 172.28.0.$((host + 1))" ;;
    esac
  done >"$shared/hostfile"
}

# Failures are to be noticed soon here, and no sooner than a restart takes.
write_config()
{
  cat >"$shared/node$1.yaml" <<END
networking:
  port: 5555
  hostfile: $inside/hostfile
  wait_for_restart: $patience
  wait_for_restart_poll_period: 0.2
logging:
  file: $inside/log/node$1.log
runtime:
  heartbeat_interval: 300ms
  task_timeout: 5000
shared_memory:
  main_segment_name: chi_distributed_node$1
compose:
- mod_name: courier
  pool_name: courier
  pool_query: dynamic
  pool_id: "700.0"
  ledger: $inside/ledger
END
}

start_all()
{
  for host in $hosts; do
    host_start "$host" || return
  done
}

stop_all()
{
  for host in $hosts; do
    host_stop "$host" || return
  done
}

# Each host's daemon reaches every node.
all_meet()
{
  for host in $hosts; do
    host_run "$host" traffic ready nodes="$nodes" seconds=60 || return
  done
}

start_with()
{
  write_hostfile "$1"
  start_all && all_meet
}

# One part of the client program on each of these hosts; its last line of each.
on_hosts()
{
  list=$1
  shift
  for host in $list; do
    host_run "$host" traffic "$@" nodes="$nodes" || return
  done
}

# ---- load --------------------------------------------------------------------------------------

# A stage is a load from all hosts while something happens; its journals are in a directory.
stage_begin()
{
  stage=$1
  mkdir "$shared/journal/$stage" && rm -f "$shared/stop" || return
  for host in $hosts; do
    load_begin "$host" || return
  done
}

load_begin()
{
  clients=$((clients + 1))
  journal=journal/$stage/node$1.$clients
  host_begin "$1" traffic load nodes="$nodes" client="$clients" seed="$clients" rate=300 \
    seconds=300 window=32 stop="$inside/stop" journal="$inside/$journal" >"$shared/log/load.$1" 2>&1
  echo $! >"$shared/load.$1"
  echo "$journal" >"$shared/load.$1.journal"
  wait_for 60 test -s "$shared/$journal"
}

# The client of host $1 ended with its host: what it has written down counts, as far as it goes.
load_killed()
{
  wait "$(cat "$shared/load.$1")" && return 1
  journal=$(cat "$shared/load.$1.journal")
  mv "$shared/$journal" "$shared/$journal.killed"
}

# The load ends; every client has to have got all its answers.
stage_end()
{
  touch "$shared/stop"
  for host in $hosts; do
    wait "$(cat "$shared/load.$host")" || {
      echo "the client of node$host ended with status $?:"
      cat "$shared/log/load.$host"
      return 1
    }
  done
}

# What was told beside what was done: $1 is the stage, $2 the codes that may come; none: any.
judge()
{
  host_run 1 traffic judge nodes="$nodes" journal="$inside/journal/$1" ledger="$inside/ledger" \
    ${2:+codes="$2"}
}

# Whatever was on its way then has come to its end by now.
judge_again()
{
  for stage in "$shared"/journal/*; do
    judge "${stage##*/}" '' || return
  done
  echo "$clients clients"
}

# $1: a stage, $2: the codes that may come in it; the rest is what happens meanwhile.
under_load()
{
  stage_begin "$1" || return
  codes=$2
  shift 2
  sleep 1
  "$@" || return
  sleep 1
  stage_end && judge "$stage" "$codes"
}

# ---- what happens ------------------------------------------------------------------------------

restart()
{
  "$2" "$1" || return
  [ "$clients_survive" = 1 ] || load_killed "$1" || return
  sleep "$3"
  host_start "$1" || return
  [ "$clients_survive" = 1 ] || load_begin "$1" || return
  all_meet
}

cut_and_heal()
{
  host_cut "$1" || return
  sleep "$2"
  host_heal "$1" && all_meet
}

freeze_and_thaw()
{
  host_freeze "$1" || return
  sleep "$2"
  host_thaw "$1" && all_meet
}

# Nobody hears of its end: the connections to it are left half open.
kill_unheard()
{
  host_cut "$1" && host_kill "$1" || return
  sleep 2
  host_heal "$1"
}

# From another host, to the port of host $1.
strangers()
{
  host_run "$nodes" traffic crowd address="172.28.0.$(($1 + 1))" seconds=8
}

rolling_restart()
{
  for host in $hosts; do
    rolling=$host
    restart "$rolling" host_stop 0 || return
  done
}

# Clients besides the load's, killed at work: as often as there are hosts, one on each.
kill_clients()
{
  for host in $hosts; do
    clients=$((clients + 1))
    victim=$shared/journal/$stage/node$host.$clients.killed
    # shellcheck disable=SC2016
    host_begin "$host" sh -c 'echo $$ >"$0"; exec traffic "$@"' "$inside/victim" load \
      nodes="$nodes" client="$clients" seed="$clients" rate=0 seconds=60 window=64 \
      journal="$inside${victim#"$shared"}" >"$shared/log/victim" 2>&1
    waiting=$!
    wait_for 60 test -s "$victim" || return
    sleep 0.5
    host_run "$host" sh -c "kill -9 $(cat "$shared/victim")" || return
    ! wait $waiting || return
  done
}

# The daemon of host $1 has no client but the one that asks.
is_alone()
{
  [ "$(host_run "$1" chimaera status --json | grep -o '"uid"' | wc -l)" = 1 ]
}

all_alone()
{
  for host in $hosts; do
    wait_for 20 is_alone "$host" || {
      echo "node$host still has clients"
      return 1
    }
  done
  echo 'no client is left'
}

# ---- the whole ---------------------------------------------------------------------------------

speed_table()
{
  printf '\n%-18s %10s %10s %12s %12s %12s\n' 'from -> to' 'median us' '99 % us' 'tasks/s' \
    'put MiB/s' 'get MiB/s'
  awk '{ printf "node%d -> node%-5d %13s %10s %12s %12s %12s\n", $1 + 1, $2 + 1, $3, $4, $5,
    $6, $7 }' "$1"
  echo
}

speed()
{
  on_hosts "1 $nodes" speed >"$shared/speed" && echo "$(wc -l <"$shared/speed") ways"
}

scenario()
{
  lossy=OK,EUNREACHABLE,EUNKNOWN,ESHUTDOWN
  for host in $hosts; do
    write_config "$host"
  done
  step "$nodes hosts" hosts_open || return
  step 'a hostfile of addresses' start_with plain || return
  step 'all stop, each with status 0' stop_all || return
  step 'a hostfile of names and addresses' start_with named || return
  step 'every kind of query, from every node' on_hosts "$hosts" queries
  step 'bulk of 1 B to 64 MiB, from every node' on_hosts "$hosts" bulk
  step 'latency and throughput' speed && speed_table "$shared/speed"
  step 'nothing happens' under_load calm OK sleep 2
  step 'clients are killed' under_load clients OK kill_clients
  step 'and leave nothing behind' all_alone
  step "node$nodes is killed, and restarted" under_load kill $lossy restart "$nodes" host_kill 1
  step 'node1 is killed, and restarted' under_load kill1 $lossy restart 1 host_kill 1
  step "node$nodes is killed unheard, and restarted" under_load unheard $lossy restart "$nodes" \
    kill_unheard 1
  step 'ten thousand strangers make noise at node1' under_load strangers OK strangers 1
  step 'node2 is cut off for 3 s' under_load cut $lossy cut_and_heal 2 3
  step "node1 is cut off for $((patience + 2)) s" under_load cut1 $lossy cut_and_heal 1 \
    $((patience + 2))
  step 'node2 stands still for 3 s' under_load freeze $lossy freeze_and_thaw 2 3
  step 'all nodes are restarted, one by one' under_load rolling 'OK,ESHUTDOWN!' \
    rolling_restart
  step 'every kind of query again' on_hosts "$hosts" queries
  step 'no client is left' all_alone
  step 'nothing ran later, or once more' judge_again
  step 'all stop, each with status 0' stop_all
}
