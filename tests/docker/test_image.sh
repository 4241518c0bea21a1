#!/bin/bash
# test_image.sh - the production image and its compose file, on a real engine.
#
# usage: test_image.sh
#
# Builds the image (or takes $CHIMAERA_IMAGE), runs single containers and the three nodes of the
# compose file, and removes what it made. $CHIMAERA_BASE is the image to build on; without it,
# tools/base-image says. Closes with the counts; without an engine all is skipped.
set -u
LC_ALL=C
export LC_ALL
here=$(cd "$(dirname "$0")/../.." && pwd)
: "${DOCKER:=docker}"
temp=$(mktemp -d "${TMPDIR:-/var/tmp}/chimaera-image-XXXXXX") || exit 1
name=chimaera-test-$$
image=${CHIMAERA_IMAGE:-$name}
want_by=-F
# shellcheck source=tests/script.sh
. "$here/tests/script.sh"
CHIMAERA_IMAGE=$image CHIMAERA_PREFIX=$name CHIMAERA_CPUS=$(($(nproc) > 1 ? 2 : 1))
export CHIMAERA_IMAGE CHIMAERA_PREFIX CHIMAERA_CPUS

docker()
{
  command "$DOCKER" "$@"
}

compose=(docker-compose)
! docker compose version >/dev/null 2>&1 || compose=("$DOCKER" compose)
compose+=(-p "$name" -f "$here/docker/docker-compose.yml")

# shellcheck disable=SC2317
finish()
{
  {
    "${compose[@]}" down -v --remove-orphans
    docker ps -aq --filter "name=^$name" | xargs -r "$DOCKER" rm -fv
    docker volume ls -q --filter "name=^$name" | xargs -r "$DOCKER" volume rm
    [ "$image" != "$name" ] || docker rmi "$image"
    docker image prune -f --filter label=chimaera=runtime-build
  } >/dev/null 2>&1
  rm -rf "$temp"
}

# Runs a command: its status in $status, what it prints in $temp/out.
try()
{
  timeout 120 "$@" >"$temp/out" 2>&1 </dev/null
  status=$?
}

# A short-lived container: options of docker run and --, then what the entry script gets.
run()
{
  local options=()
  while [ "$1" != -- ]; do
    options+=("$1")
    shift
  done
  shift
  try "$DOCKER" run --rm --name "$name-run" "${options[@]}" "$image" "$@"
}

# $1: what docker inspect is asked, $2: a container.
look()
{
  docker inspect -f "$1" "$2"
}

# Waits until a command succeeds: $1 tries of half a second at most.
until_true()
{
  local i tries=$1
  shift
  for ((i = 0; i < tries; i++)); do
    ! "$@" >"$temp/out" 2>&1 </dev/null || return 0
    sleep 0.5
  done
  return 1
}

# shellcheck disable=SC2317
is_healthy()
{
  [ "$(look '{{.State.Health.Status}}' "$1")" = healthy ]
}

healthy()
{
  local c
  for c in "$@"; do
    if until_true 240 is_healthy "$c"; then right; else wrong "$c is not healthy"; fi
  done
}

# $1: a container, $2: how many nodes it is to see alive.
# shellcheck disable=SC2317
sees()
{
  docker exec "$1" chimaera status | grep -q "^nodes: $2 of 3 alive"
}

all_see()
{
  local n
  for n in 1 2 3; do
    if until_true 240 sees "$name-node$n" "$1"; then right; else wrong "node$n does not see $1"; fi
  done
}

on()
{
  try "$DOCKER" exec "$name-node$1" "${@:2}"
}

# ---- an engine, and the image ------------------------------------------------------------------

if ! docker version >/dev/null 2>&1; then
  skip "no engine answers $DOCKER version"
  sum_up
  rm -rf "$temp"
  exit 0
fi
trap finish EXIT
trap 'exit 1' INT TERM HUP
if [ "$image" = "$name" ]; then
  : "${CHIMAERA_BASE:=$("$here/tools/base-image")}"
  export CHIMAERA_BASE
  if ! "${compose[@]}" build >"$temp/out" 2>&1 </dev/null; then
    wrong 'the image cannot be built'
    sum_up
    exit
  fi
  right
fi
echo "image: $(($(look '{{.Size}}' "$image") / 1000000)) MB"
# Debian slim has 75 MB.
ok test "$(look '{{.Size}}' "$image")" -lt 100000000
ok test "$(look '{{.Config.User}}' "$image")" = 10001

# ---- what the entry script refuses, and what it says -------------------------------------------

run -- id -u
want 0 10001
run -- sh -c 'grep CapEff /proc/self/status; ls /usr/bin/gcc; command -v make'
want 127 $'CapEff:\t0000000000000000'
run --
want 1 'ERROR: Total segment size (2147483648 bytes) exceeds shared memory size (67108864 bytes)'
run --shm-size 2g -e CHI_MAIN_SEGMENT_SIZE=2G -e CHI_SHM_SIZE=2147483648 --
want 1 'ERROR: Total segment size (3221225472 bytes) exceeds shared memory size (2147483648 bytes)'
run --shm-size 2g -e CHI_MAIN_SEGMENT_SIZE=1X --
want 1 'ERROR: Invalid size format: 1X'
run --shm-size 2g -e CHI_ZMQ_PORT=70000 --
want 1 'ERROR: CHI_ZMQ_PORT: networking.port: expected a whole number from 1 to 65535'
run -e CHI_HOSTFILE=/etc/chimaera/hostfile -- chimaera config
want 0 'WARNING: CHI_HOSTFILE specified but file not found: /etc/chimaera/hostfile'
run -m 1g --shm-size 2g -- --no-such-option
want 2 'WARNING: Total segment size (2147483648 bytes) exceeds the memory limit (1073741824 bytes)'
# A hostfile without this node: the daemon's own complaint and status.
printf '203.0.113.1\n203.0.113.2\n' >"$temp/hostfile"
chmod 755 "$temp"
run --shm-size 2g -v "$temp/hostfile:/etc/chimaera/hostfile:ro" \
  -e CHI_HOSTFILE=/etc/chimaera/hostfile --
want 1 'has an address of this machine'

# A mounted file wins; a directory that an engine made for want of one is told.
printf 'networking: {port: 7001}\nlogging: {file: ""}\n' >"$temp/mine.yaml"
mine=$temp/mine.yaml:/etc/chimaera/chimaera_config.yaml:ro
run -v "$mine" -e CHI_ZMQ_PORT=7002 -- chimaera config
want 0 '  port: 7001' 'these have no effect: CHI_ZMQ_PORT'
run -v "$temp/nothing:/etc/chimaera/chimaera_config.yaml" -- chimaera config
want 1 'ERROR: CHI_SERVER_CONF: expected a file'
printf 'networking: {prot: 7001}\n' >"$temp/bad.yaml"
run --shm-size 2g -v "$temp/bad.yaml:/etc/chimaera/chimaera_config.yaml:ro" --
want 1 'ERROR: /etc/chimaera/chimaera_config.yaml:1:14: unknown key "networking.prot"'

# A user that the platform chose, with group 0; a stranger that may not write.
run --user 54321:0 -- chimaera config
want 0 '  main_segment_name: "chi_main_segment_54321"'
run --user 54321:54321 -- chimaera config
want 1 'ERROR: CHI_SERVER_CONF: cannot write /etc/chimaera/chimaera_config.yaml'
run --read-only -- chimaera config
want 1 'ERROR: CHI_SERVER_CONF: cannot write /etc/chimaera/chimaera_config.yaml'

# ---- one container -----------------------------------------------------------------------------

one=$name-one
docker run -d --name "$one" --shm-size 2g -e CHI_SCHED_WORKERS=1 -e CHI_ZMQ_PORT=6001 \
  -v "$name-tmp:/tmp" "$image" >/dev/null
healthy "$one"
try "$DOCKER" logs "$one"
want 0 'chimaera: ready: instance chi_main_segment_chimaera:6001, 1 fast'
# The script has become the daemon: between it and the first process is no shell.
try "$DOCKER" exec "$one" sh -c 'cat /proc/1/comm /proc/1/task/1/children'
want 0 tini
# shellcheck disable=SC2016
try "$DOCKER" exec "$one" sh -c 'read -r child rest </proc/1/task/1/children; cat /proc/$child/comm'
want 0 chimaera
# A client needs only the socket's directory, and the same user.
run -e CHI_ZMQ_PORT=6001 -v "$name-tmp:/tmp" -- chimaera call admin flush
want 0 total_work_done
# Its first start's file is no obstacle to the second; SIGTERM ends it with 0 each time.
try "$DOCKER" restart "$one"
want 0
healthy "$one"
try "$DOCKER" logs "$one"
want 0
ok not grep -q -e WARNING -e ERROR "$temp/out"
try "$DOCKER" stop "$one"
want 0
ok test "$(look '{{.State.ExitCode}}' "$one")" = 0
docker start "$one" >/dev/null
docker stop "$one" >/dev/null # in the middle of its start, before the daemon is there
case $(look '{{.State.ExitCode}}' "$one") in
0 | 1 | 143) right ;;
*) wrong "status $(look '{{.State.ExitCode}}' "$one") when stopped early" ;;
esac
docker start "$one" >/dev/null
healthy "$one"
docker kill "$one" >/dev/null
ok test "$(look '{{.State.ExitCode}}' "$one")" = 137
docker rm -fv "$one" >/dev/null

# No room for the log: lines are lost and counted, and the node serves.
docker run -d --name "$one" --shm-size 2g \
  --tmpfs /var/log/chimaera:size=64k,uid=10001,gid=10001 "$image" >/dev/null
healthy "$one"
# $1: the id of a pool to create, of which the log tells; the rest: what comes before that.
creates()
{
  # shellcheck disable=SC2016
  try "$DOCKER" exec "$one" sh -c 'log=/var/log/chimaera/chimaera.log; eval "$2"
    echo "compose: [{mod_name: bdev, pool_name: r$1, pool_query: local, pool_id: \"$1.0\"," \
      "bdev_type: ram, capacity: 4M}]" >pool.yaml
    chimaera compose pool.yaml; cat $log' sh "$@"
}
# shellcheck disable=SC2016
creates 300 'cat /dev/zero >>$log'
want 0 'No space left on device' '300.0 bdev r300: created'
ok not grep -q 'pool 300.0 (r300) .* is ready' "$temp/out"
healthy "$one"
# shellcheck disable=SC2016
creates 301 ': >$log'
want 0 ' 1 lines lost' '301.0 bdev r301: created' 'pool 301.0 (r301) of module bdev is ready'
try "$DOCKER" stop "$one"
want 0
ok test "$(look '{{.State.ExitCode}}' "$one")" = 0
docker rm -fv "$one" >/dev/null

# A memory limit that is far below the budgets: what does not fit is refused, and the node lives.
docker run -d --name "$one" --shm-size 2g -m 96m "$image" >/dev/null
healthy "$one"
cat >"$temp/pools.yaml" <<END_OF_FILE
compose:
  - {mod_name: bdev, pool_name: disk, pool_query: local, pool_id: "300.0", bdev_type: file,
     capacity: 256M}
  - {mod_name: bdev, pool_name: ram, pool_query: local, pool_id: "301.0", bdev_type: ram,
     capacity: 256M}
END_OF_FILE
docker exec -i "$one" sh -c 'cat >pools.yaml' <"$temp/pools.yaml"
try "$DOCKER" exec "$one" chimaera compose pools.yaml
want 1 '300.0 bdev disk: created'
try "$DOCKER" exec "$one" chimaera call disk read block.offset=0 block.size=100663296 \
  length=100663296 data=@/dev/null
want 1
try "$DOCKER" exec "$one" sh -c 'chimaera status >/dev/null && cat /var/log/chimaera/chimaera.log'
want 0 'no memory for 268435456 bytes' 'Failed to allocate shared memory segment'
ok test "$(look '{{.State.OOMKilled}} {{.RestartCount}}' "$one")" = 'false 0'
docker rm -fv "$one" >/dev/null

# ---- three nodes -------------------------------------------------------------------------------

try "${compose[@]}" config
want 0
try "${compose[@]}" up -d --no-build
want 0
healthy "$name-node1" "$name-node2" "$name-node3"
all_see 3
for n in 1 2 3; do
  ok test "$(look '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "$name-node$n")" = \
    172.20.0.$((9 + n))
  ok test "$(look '{{.HostConfig.ShmSize}} {{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}' \
    "$name-node$n")" = "2147483648 3221225472 ${CHIMAERA_CPUS}000000000"
  on $n sh -c 'id -u; grep -h -e CapBnd -e NoNewPrivs /proc/1/status; df -k /dev/shm'
  want 0 10001 $'CapBnd:\t0000000000000000' $'NoNewPrivs:\t1' ' 2097152 '
  on $n touch /usr/file
  want 1 'Read-only file system'
  on $n sh -c 'touch /etc/chimaera/hostfile'
  want 1
  on $n sh -c 'touch /data/x /var/log/chimaera/x && rm /data/x /var/log/chimaera/x'
  want 0
done
ok test "$(look '{{.HostConfig.PortBindings}}' "$name-node1")" = 'map[]'

# A device on each node: made from one of them, used from another.
cat >"$temp/disk.yaml" <<END_OF_FILE
compose:
  - {mod_name: bdev, pool_name: /data/disk, pool_query: broadcast, pool_id: "300.0",
     bdev_type: file, capacity: 16M}
END_OF_FILE
docker exec -i "$name-node1" sh -c 'cat >disk.yaml' <"$temp/disk.yaml"
on 1 chimaera compose disk.yaml
want 0 created
for n in 1 2 3; do
  on $n test -s /data/disk
  want 0
done
on 1 chimaera call 300.0 allocate_blocks size=4K --query physical:2
want 0 '"offset":0,"size":4096'
on 2 chimaera call 300.0 write block.offset=0 block.size=4096 data=hello --query physical:2
want 0 '"bytes_written":5'
on 1 chimaera call 300.0 sync --query physical:2
want 0
on 3 chimaera call 300.0 read block.offset=0 block.size=4096 length=5 data=@-
want 0 hello
on 1 chimaera call 300.0 read block.offset=0 block.size=4096 length=5 data=@- --query physical:1
if grep -q hello "$temp/out"; then wrong 'node 1 has what was written to node 2'; else right; fi

# One that is short of memory refuses what others send; it isn't killed, and works when it can.
cat >"$temp/big.yaml" <<END_OF_FILE
compose:
  - {mod_name: bdev, pool_name: /data/big, pool_query: broadcast, pool_id: "301.0",
     bdev_type: file, capacity: 64M}
END_OF_FILE
docker exec -i "$name-node1" sh -c 'cat >big.yaml' <"$temp/big.yaml"
on 1 sh -c 'head -c 48M /dev/zero >letter && chimaera compose big.yaml &&
  chimaera call 301.0 allocate_blocks size=48M --query physical:1'
want 0 '"offset":0,"size":50331648'
to_node2=(chimaera call 301.0 write block.offset=0 block.size=50331648 --query physical:1)
docker update --memory 88m --memory-swap 88m "$name-node2" >/dev/null 2>&1
on 1 "${to_node2[@]}" data=@letter
want 1
ok grep -q -e CHI_EBUSY -e CHI_ENOMEM "$temp/out"
on 1 "${to_node2[@]}" data=small
want 0 '"bytes_written":5'
docker update --memory 3g --memory-swap 3g "$name-node2" >/dev/null 2>&1
on 1 "${to_node2[@]}" data=@letter
want 0 '"bytes_written":50331648'
ok test "$(look '{{.State.OOMKilled}} {{.RestartCount}}' "$name-node2")" = 'false 0'

# The daemon of one dies: its engine starts it again, the others notice both.
since=$(look '{{.State.StartedAt}}' "$name-node3")
docker exec "$name-node3" sh -c 'kill -9 -1' >/dev/null 2>&1
# shellcheck disable=SC2317
started_again()
{
  [ "$(look '{{.State.Running}} {{.RestartCount}}' "$name-node3")" = 'true 1' ] &&
    [ "$(look '{{.State.StartedAt}}' "$name-node3")" != "$since" ]
}
if until_true 120 started_again; then right; else wrong 'node3 is not started again'; fi
healthy "$name-node3"
all_see 3
# It learns of the pool by itself, and finds in its volume what was acknowledged.
# shellcheck disable=SC2317
reads_hello()
{
  docker exec "$name-node1" chimaera call 300.0 read block.offset=0 block.size=4096 length=5 \
    data=@- --query physical:2 | grep -q hello
}
if until_true 120 reads_hello; then right; else wrong 'what was on node3 is not there'; fi

# One is stopped, and seen to be; its status is that of a daemon that was asked to.
"${compose[@]}" stop chimaera-node3 >/dev/null 2>&1
ok test "$(look '{{.State.ExitCode}}' "$name-node3")" = 0
if until_true 240 sees "$name-node1" 2; then right; else wrong 'node3 is still alive to node1'; fi
"${compose[@]}" start chimaera-node3 >/dev/null 2>&1
healthy "$name-node3"
all_see 3

try "${compose[@]}" stop
want 0
for n in 1 2 3; do
  ok test "$(look '{{.State.ExitCode}} {{.State.OOMKilled}}' "$name-node$n")" = '0 false'
  try "$DOCKER" logs "$name-node$n"
  want 0 'chimaera: ready: instance chi_main_segment_chimaera:5555'
  ok not grep -q -e WARNING -e ERROR "$temp/out"
done
# The log outlives the container, in its volume.
try "${compose[@]}" rm -f
want 0
run -v "${name}_chimaera-node1-logs:/var/log/chimaera" -- cat /var/log/chimaera/chimaera.log
want 0 'node 1 is alive'

# ---- three nodes with keys ---------------------------------------------------------------------

# As README.md has it: with the lines of the compose file that are behind a "#".
keyed=$temp/keyed
mkdir "$keyed"
cp "$here/docker/hostfile" "$keyed"
sed 's/^\( *\)#\([A-Z-]\)/\1\2/' "$here/docker/docker-compose.yml" >"$keyed/docker-compose.yml"
compose=("${compose[@]:0:${#compose[@]}-1}" "$keyed/docker-compose.yml")
install -d -o 10001 "$keyed/keys" "$keyed/keys/public"
for node in 172.20.0.10 172.20.0.11 172.20.0.12; do
  run -v "$keyed/keys:/keys" -- \
    sh -c "chimaera keygen --directory /keys $node && mv /keys/$node.pub /keys/public"
  want 0
done
run --shm-size 2g -e CHI_SECURITY=required --
want 1 'ERROR: CHI_SECURITY: networking.security: "required" needs networking.key_file and'
try "${compose[@]}" up -d --no-build
want 0
healthy "$name-node1" "$name-node2" "$name-node3"
all_see 3
for n in 1 2 3; do
  on $n cat /var/log/chimaera/chimaera.log
  want 0 'messages between nodes are encrypted; 2 of 2 other nodes have an authorised key'
done
# Who loses its key is out until it has it again, without anybody's restart.
mv "$keyed/keys/public/172.20.0.12.pub" "$keyed"
for n in 1 2; do
  if until_true 240 sees "$name-node$n" 2; then right; else wrong "node$n still sees node3"; fi
done
mv "$keyed/172.20.0.12.pub" "$keyed/keys/public"
all_see 3
for n in 1 2 3; do
  ok test "$(look '{{.State.Health.Status}} {{.RestartCount}}' "$name-node$n")" = 'healthy 0'
done

sum_up
