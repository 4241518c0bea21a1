#!/bin/sh
# hosts_docker.sh - hosts are containers of docker-compose.distributed.yml. Sourced by
# run-distributed-test.sh; `shared`, `hosts` and `build` are set.
#
# A host's first process is its daemon: when that ends, so does all that runs there.
# shellcheck disable=SC2034,SC2154

clients_survive=0
inside=/shared
image=chimaera-distributed
network=chimaera-net

# A client that reaches an engine; there may be others on the PATH.
docker=
for candidate in ${DOCKER:-docker /usr/bin/docker}; do
  if "$candidate" version >/dev/null 2>&1; then
    docker=$candidate
    break
  fi
done

# Why there can't be containers. Nothing: there can.
hosts_missing()
{
  if [ -z "$docker" ]; then
    echo 'no Docker engine answers'
  elif ! compose version >/dev/null 2>&1; then
    echo 'neither docker compose nor docker-compose is here'
  fi
}

# What runs in containers writes as whoever runs this.
compose()
{
  CHIMAERA_USER=$(id -u):$(id -g)
  export CHIMAERA_USER
  if "$docker" compose version >/dev/null 2>&1; then
    set -- "$docker" compose -p chimaera-distributed -f docker-compose.distributed.yml "$@"
  else
    set -- docker-compose -p chimaera-distributed -f docker-compose.distributed.yml "$@"
  fi
  "$@"
}

services()
{
  for host in $hosts; do
    echo "node$host"
  done
}

image_is_there()
{
  "$docker" image inspect $image >/dev/null 2>&1
}

base_find()
{
  base=$(DOCKER=$docker tools/base-image)
}

image_build()
{
  "$docker" build -q -t $image --build-arg "BASE=$base" -f Dockerfile.distributed . &&
    image_prune
}

# Takes what the build left without a name.
image_prune()
{
  "$docker" image prune -f --filter label=chimaera=distributed >/dev/null
}

hosts_prepare()
{
  if [ "$build" = 1 ] || ! image_is_there; then
    { step 'its base' base_find && step 'the image' image_build; } || {
      echo "$passed passed, $failed failed"
      return 1
    }
  fi
}

# All that was made here; the base as well, unless other images stand on it.
hosts_remove()
{
  hosts='1 2 3 4 5'
  compose_down
  "$docker" image rm -f $image >/dev/null 2>&1
  # A build that failed has left its container.
  "$docker" container prune -f --filter label=chimaera=distributed >/dev/null
  image_prune
  layer='{{index .RootFS.Layers 0}}'
  base=$("$docker" image inspect -f "$layer" chimaera-base:12 2>/dev/null) || return 0
  # shellcheck disable=SC2046
  users=$("$docker" image inspect -f "$layer" $("$docker" image ls -aq) | grep -c "$base")
  [ "$users" != 1 ] || "$docker" image rm chimaera-base:12 >/dev/null
}

# Containers stay, for a look at them.
hosts_close()
{
  # shellcheck disable=SC2046
  compose stop $(services) >/dev/null 2>&1
}

compose_down()
{
  # shellcheck disable=SC2046
  compose rm -s -f $(services) >/dev/null 2>&1
  compose down -v --remove-orphans >/dev/null 2>&1
}

hosts_open()
{
  (hosts='1 2 3 4 5' && compose_down)
  if "$docker" network inspect $network >/dev/null 2>&1; then
    echo "the network $network is in use by others"
    return 1
  fi
  # shellcheck disable=SC2046
  compose up --no-start $(services) 2>&1 && echo "172.28.0.2 and up, in $network"
}

host_run()
{
  at=$1
  shift
  "$docker" exec "chimaera-test-node$at" "$@"
}

host_begin()
{
  host_run "$@" &
}

host_start()
{
  "$docker" start "chimaera-test-node$1" >/dev/null || return
  wait_for 60 host_run "$1" chimaera status >/dev/null 2>&1 || {
    "$docker" logs --tail 20 "chimaera-test-node$1"
    return 1
  }
}

host_kill()
{
  "$docker" kill "chimaera-test-node$1" >/dev/null && host_ended "$1" 137
}

# SIGTERM: its exit status is to be 0.
host_stop()
{
  "$docker" stop -t 60 "chimaera-test-node$1" >/dev/null && host_ended "$1" 0
}

# The container of host $1 ends with status $2.
host_ended()
{
  status=$("$docker" wait "chimaera-test-node$1")
  [ "$status" = "$2" ] || {
    echo "node$1 ended with status $status, not $2"
    "$docker" logs --tail 20 "chimaera-test-node$1"
    return 1
  }
}

host_freeze()
{
  "$docker" pause "chimaera-test-node$1"
}

host_thaw()
{
  "$docker" unpause "chimaera-test-node$1"
}

host_cut()
{
  "$docker" network disconnect $network "chimaera-test-node$1"
}

host_heal()
{
  "$docker" network connect --ip "172.28.0.$(($1 + 1))" $network "chimaera-test-node$1"
}
