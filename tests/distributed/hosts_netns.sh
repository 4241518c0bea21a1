#!/bin/sh
# hosts_netns.sh - hosts are network namespaces on a bridge, in a namespace of their own that takes
# them along when it ends. Sourced by run-distributed-test.sh; `shared`, `bin`,
# `hosts`, `nodes` and `cleanup` are set.
#
# A host is host 1 .. N, address 172.28.0.(i + 1). Clients outlive the daemon of their host.
# shellcheck disable=SC2034,SC2154

clients_survive=1
inside=$shared

# Where there are no namespaces: why not. Nothing: there are.
hosts_missing()
{
  for program in ip unshare mount; do
    command -v $program >/dev/null || {
      echo "no program $program"
      return
    }
  done
  # shellcheck disable=SC2046
  unshare $(hosts_flags) sh -c 'mount -t tmpfs tmpfs /run && mkdir /run/netns &&
    ip link add name test type bridge && ip netns add one &&
    ip link add name one type veth peer name eth0 netns one' 2>&1 >/dev/null | head -n 1
}

# A user who isn't root is root of a user namespace, where the system allows that.
hosts_flags()
{
  [ "$(id -u)" = 0 ] || printf '%s ' --map-root-user
  echo --net --mount --pid --fork --kill-child --mount-proc
}

# Runs all of it again, in the namespace that holds the others.
hosts_prepare()
{
  make -s distributed BUILD="$bin" || return
  inside_hosts=1
  export inside_hosts
  [ "$cleanup" = 0 ] || set -- --cleanup
  # shellcheck disable=SC2046
  exec unshare $(hosts_flags) "$0" --namespaces --nodes "$nodes" "$@"
}

# Nothing outlives the namespace.
hosts_remove()
{
  :
}

# The directory of the daemons' sockets is covered, so that no other daemon's is in the way. What a
# killed process leaves unsent isn't tried for long: a host without power doesn't send it either.
hosts_open()
{
  sockets=/tmp/chimaera-$(id -u)
  made=
  if [ ! -d "$sockets" ]; then
    mkdir -m 700 "$sockets" || return
    made=$sockets
  fi
  mkdir -p "$shared/sockets" && chmod 700 "$shared/sockets"
  mount --bind "$shared/sockets" "$sockets" && mount -t tmpfs tmpfs /run &&
    mkdir /run/netns || return
  ip link set lo up && ip link add name chimaera-net type bridge &&
    ip addr add 172.28.0.1/16 dev chimaera-net && ip link set chimaera-net up || return
  for host in $hosts; do
    ip netns add "node$host" &&
      ip link add name "veth$host" type veth peer name eth0 netns "node$host" &&
      ip link set "veth$host" master chimaera-net up &&
      ip -n "node$host" addr add "172.28.0.$((host + 1))/16" dev eth0 &&
      ip netns exec "node$host" sh -c 'echo 1 >/proc/sys/net/ipv4/tcp_orphan_retries' &&
      ip -n "node$host" link set eth0 up && ip -n "node$host" link set lo up || return
  done
}

hosts_close()
{
  for host in $hosts; do
    [ ! -e "$shared/node$host.pid" ] || host_kill "$host" 2>/dev/null
  done
  [ -z "${made:-}" ] || { umount "$made" && rmdir "$made"; }
}

# $1: host; the rest is a command.
host_run()
{
  at=$1
  shift
  ip netns exec "node$at" env CHI_SERVER_CONF="$shared/node$at.yaml" \
    PATH="$bin:$bin/distributed:$PATH" "$@"
}

# The same in the background, as this very process: its id is in $!.
host_begin()
{
  at=$1
  shift
  CHI_SERVER_CONF="$shared/node$at.yaml" PATH="$bin:$bin/distributed:$PATH" \
    ip netns exec "node$at" "$@" &
}

host_start()
{
  out=$shared/log/node$1.out
  : >"$out"
  CHI_MODULE_PATH=$bin/distributed host_begin "$1" chimaera start >"$out" 2>&1
  echo $! >"$shared/node$1.pid"
  wait_for 60 grep -q '^chimaera: ready' "$out" || {
    cat "$out"
    return 1
  }
}

host_kill()
{
  pid=$(cat "$shared/node$1.pid") && kill -9 "$pid" && host_ended "$1" 137
}

# SIGTERM: its exit status is to be 0.
host_stop()
{
  pid=$(cat "$shared/node$1.pid") && kill -TERM "$pid" && host_ended "$1" 0
}

# The daemon of host $1 ends with status $2.
host_ended()
{
  status=0
  wait "$pid" || status=$?
  rm "$shared/node$1.pid"
  [ $status = "$2" ] || {
    echo "node$1 ended with status $status, not $2"
    cat "$shared/log/node$1.out"
    return 1
  }
}

host_freeze()
{
  kill -STOP "$(cat "$shared/node$1.pid")"
}

host_thaw()
{
  kill -CONT "$(cat "$shared/node$1.pid")"
}

host_cut()
{
  ip link set "veth$1" down
}

host_heal()
{
  ip link set "veth$1" up
}
