#!/bin/bash
# test_entrypoint.sh - the image's entry script, without an engine: settings, refusals, signals.
#
# Needs CHIMAERA, the program; closes with the counts. What needs a file system of its own to mount
# is skipped without the right to do so.
# What is in single quotes here is meant to stay as it is:
# shellcheck disable=SC2016
set -u
LC_ALL=C
export LC_ALL
here=$(cd "$(dirname "$0")/../.." && pwd)
: "${CHIMAERA:=$here/build/gcc-amalgam/chimaera}"
if ! [ -x "$CHIMAERA" ]; then
  echo "$CHIMAERA: is not there; make builds it, or set CHIMAERA" >&2
  exit 1
fi
entry=$here/docker/entrypoint.sh
: "${ENTRY_SHELL:=}" # another shell than the one in the script's first line
PATH=$(cd "$(dirname "$CHIMAERA")" && pwd):$PATH
temp=$(mktemp -d "${TMPDIR:-/var/tmp}/chimaera-entry-XXXXXX") || exit 1
pid="" want_by=-xF
# shellcheck source=tests/script.sh
. "$here/tests/script.sh"
port=$((20000 + $$ % 20000))
for name in "${!CHI_@}" WRP_RUNTIME_CONF NOTIFY_SOCKET; do
  unset "$name"
done
USER=entry_$$
etc=$temp/etc
CHI_SERVER_CONF=$etc/chimaera_config.yaml
CHI_LOG_FILE=$temp/log
export PATH USER CHI_SERVER_CONF CHI_LOG_FILE
mkdir "$etc"
conf=$CHI_SERVER_CONF

# shellcheck disable=SC2317
finish()
{
  [ -z "$pid" ] || kill -9 "$pid" 2>/dev/null
  chmod -R u+rwx "$temp"
  rm -rf "$temp"
}
trap finish EXIT

clear_etc()
{
  rm -rf "$etc"
  mkdir "$etc"
}

# What is before -- goes to $set, what is behind it to $rest.
split()
{
  set=()
  while [ "$1" != -- ]; do
    set+=("$1")
    shift
  done
  shift
  rest=("$@")
}

# Runs the script on a fresh directory: NAME=VALUE... then --, then its arguments.
enter()
{
  clear_etc
  enter_again "$@"
}

enter_again()
{
  split "$@"
  # shellcheck disable=SC2086
  env "${set[@]}" timeout 60 $ENTRY_SHELL "$entry" "${rest[@]}" \
    >"$temp/out" 2>"$temp/err" </dev/null
  status=$?
}

# Nothing was said.
quiet()
{
  if [ -s "$temp/err" ]; then wrong 'something was said'; else right; fi
}

# ---- each variable reaches the daemon's configuration ------------------------------------------

enter -- chimaera config
want 0 "  file: \"$temp/log\"" "  main_segment_name: \"chi_main_segment_$USER\""
quiet

printf '127.0.0.1\n' >"$temp/hostfile"
while read -r name value line; do
  enter "$name=$value" -- chimaera config
  want 0 "  ${line//@/ }"
  quiet
done <<END_OF_LIST
CHI_SCHED_WORKERS 7 sched_threads:@7
CHI_PROCESS_REAPER_WORKERS 3 process_reaper_threads:@3
CHI_MAIN_SEGMENT_SIZE 64M main_segment_size:@64M
CHI_CLIENT_DATA_SEGMENT_SIZE 65536K client_data_segment_size:@64M
CHI_RUNTIME_DATA_SEGMENT_SIZE 67108864 runtime_data_segment_size:@64M
CHI_ZMQ_PORT 6001 port:@6001
CHI_LOG_LEVEL warning level:@warning
CHI_LOG_FILE /some/where.log file:@"/some/where.log"
CHI_LOG_FILE - file:@""
CHI_STACK_SIZE 131072 stack_size:@128K
CHI_QUEUE_DEPTH 20000 queue_depth:@20000
CHI_HEARTBEAT_INTERVAL 5000 heartbeat_interval:@5s
CHI_HEARTBEAT_INTERVAL 250ms heartbeat_interval:@250ms
CHI_TASK_TIMEOUT 60000 task_timeout:@60s
CHI_HOSTFILE $temp/hostfile hostfile:@"$temp/hostfile"
CHI_SECURITY optional security:@optional
END_OF_LIST

# Keys: the file and the directory go together.
keys=(CHI_SECURITY=required CHI_KEY_FILE="$temp/node.key" CHI_AUTHORIZED_KEYS="$temp/keys")
enter "${keys[@]}" -- chimaera config
want 0 '  security: required' "  key_file: \"$temp/node.key\"" "  authorized_keys: \"$temp/keys\""
quiet

# All at once, which is what a compose file does.
enter CHI_SCHED_WORKERS=2 CHI_PROCESS_REAPER_WORKERS=1 CHI_MAIN_SEGMENT_SIZE=1G \
  CHI_CLIENT_DATA_SEGMENT_SIZE=512M CHI_RUNTIME_DATA_SEGMENT_SIZE=512M CHI_ZMQ_PORT=5555 \
  CHI_LOG_LEVEL=info CHI_STACK_SIZE=65536 CHI_QUEUE_DEPTH=10000 CHI_HEARTBEAT_INTERVAL=1000 \
  CHI_TASK_TIMEOUT=30000 CHI_SHM_SIZE=2147483648 CHI_HOSTFILE="$temp/hostfile" -- \
  chimaera config --json
want 0
quiet
ok grep -q '"hosts":\[{"name":"127.0.0.1","address":"127.0.0.1"}\]' "$temp/out"

# What is empty counts as not set.
enter CHI_SCHED_WORKERS= CHI_MAIN_SEGMENT_SIZE= CHI_ZMQ_PORT= CHI_LOG_LEVEL= CHI_HOSTFILE= \
  CHI_SHM_SIZE= WRP_RUNTIME_CONF= -- chimaera config
want 0 '  port: 5555' '  main_segment_size: 1G'
quiet

# ---- sizes -------------------------------------------------------------------------------------

# The script reckons as the daemon does: what it names as the total is the daemon's own figures.
for size in 1g 1G 1gb 1GB 1GiB 1gIb 512M 1.5g 1.1G 0.3T 4194304 4194304B 04194304b 6000k 6000.0KB \
  1.0000000001G 9.999999M 256T 0000000000000000000000000001G; do
  enter CHI_MAIN_SEGMENT_SIZE=$size CHI_CLIENT_DATA_SEGMENT_SIZE=4M \
    CHI_RUNTIME_DATA_SEGMENT_SIZE=4M -- chimaera config --json
  want 0
  bytes=$(sed -n 's/.*"main_segment_size":\([0-9]*\),.*/\1/p' "$temp/out")
  enter CHI_MAIN_SEGMENT_SIZE=$size CHI_CLIENT_DATA_SEGMENT_SIZE=4M \
    CHI_RUNTIME_DATA_SEGMENT_SIZE=4M CHI_SHM_SIZE=1 -- chimaera start
  bytes=$((bytes + 8388608))
  want 1 "ERROR: Total segment size ($bytes bytes) exceeds shared memory size (1 bytes)"
  ok not test -e "$conf"
done

for name in CHI_MAIN_SEGMENT_SIZE CHI_CLIENT_DATA_SEGMENT_SIZE CHI_RUNTIME_DATA_SEGMENT_SIZE \
  CHI_STACK_SIZE CHI_SHM_SIZE; do
  for size in x 1x 1.5 .5G 1.G G -1G +1G '1 G' ' 1G' '1G ' 1e9 0x10 1GG 1GiBB 1iB 1,5G 1.2.3G inf \
    99999999999999999999999999 9223372036854775808 257T 281474976710657 256.1T '1G;id' '$(id)' \
    '1G # x' "1G'" '1G"' '*'; do
    enter "$name=$size" -- chimaera start
    want 1 "ERROR: Invalid size format: $size" \
      "$name: expected bytes, or a number with K, M, G or T, such as 1G, 512MB or 1.5g;\
 at most 256T"
    ok not test -e "$conf"
  done
done
enter CHI_MAIN_SEGMENT_SIZE=$'1G\nport: 1' -- chimaera start
want 1 'ERROR: Invalid size format: 1G?port: 1'
enter CHI_MAIN_SEGMENT_SIZE=$'1G\n' -- chimaera start
want 1 'ERROR: Invalid size format: 1G?'
# Sizes come first.
enter CHI_MAIN_SEGMENT_SIZE=1x CHI_ZMQ_PORT=0 CHI_HOSTFILE=/nowhere -- chimaera start
want 1 'ERROR: Invalid size format: 1x'
ok not grep -q -e PORT -e HOSTFILE "$temp/err"

enter CHI_MAIN_SEGMENT_SIZE=2G CHI_SHM_SIZE=2147483648 -- chimaera start
want 1 'ERROR: Total segment size (3221225472 bytes) exceeds shared memory size (2147483648 bytes)'
enter CHI_SHM_SIZE=2147483647 --
want 1 'ERROR: Total segment size (2147483648 bytes) exceeds shared memory size (2147483647 bytes)'
enter CHI_SHM_SIZE=1.99G -- --grace 5
want 1 'ERROR: Total segment size (2147483648 bytes) exceeds shared memory size (2136746229 bytes)'
enter CHI_SHM_SIZE=1M -- chimaera_start_runtime
want 1 'ERROR: Total segment size (2147483648 bytes) exceeds shared memory size (1048576 bytes)'
# Only a daemon needs the memory.
enter CHI_SHM_SIZE=1M -- chimaera version
want 0
quiet

# ---- other values ------------------------------------------------------------------------------

# $1: variable, $2: value, $3: what was expected, $4: key.
refused()
{
  enter "$1=$2" -- chimaera start
  want 1 "ERROR: $1: $4: expected $3, found \"$2\""
  ok not test -e "$conf"
}

for value in 0 -1 1025 four 4.0 4x ' ' '4 # 5' "4'" '4"' '[4]' '{}' '&a 4' '*a' '!!int 4' null ~ \
  true '|' '- 4' 'a: b' '%' '`' '@' '? x' ', 4'; do
  refused CHI_SCHED_WORKERS "$value" 'a whole number from 1 to 1024' workers.sched_threads
done
refused CHI_PROCESS_REAPER_WORKERS none 'a whole number from 1 to 1024' \
  workers.process_reaper_threads
for value in 0 65536 99999999999999999999 http 5555.5; do
  refused CHI_ZMQ_PORT $value 'a whole number from 1 to 65535' networking.port
done
for value in INFO verbose 3 'info ' "info'"; do
  refused CHI_LOG_LEVEL "$value" 'debug, info, warning or error' logging.level
done
for value in 0 1048577 many; do
  refused CHI_QUEUE_DEPTH $value 'a whole number from 1 to 1048576' runtime.queue_depth
done
duration='a time from 1ms to 31536000s: milliseconds, or a number with ns, us, ms or s'
for value in 0 -5 1m soon inf 999999999999999 '1000 ms'; do
  refused CHI_HEARTBEAT_INTERVAL "$value" "$duration" runtime.heartbeat_interval
  refused CHI_TASK_TIMEOUT "$value" "$duration" runtime.task_timeout
done
for value in none Required yes 1; do
  refused CHI_SECURITY $value 'optional or required' networking.security
done
needs='needs networking.key_file and networking.authorized_keys'
enter CHI_SECURITY=required CHI_KEY_FILE= -- chimaera start
want 1 "ERROR: CHI_SECURITY: networking.security: \"required\" $needs"
enter CHI_KEY_FILE="$temp/node.key" -- chimaera start
want 1 "ERROR: CHI_KEY_FILE: networking.key_file: needs networking.authorized_keys, the directory\
 of the other nodes' public keys"
enter CHI_AUTHORIZED_KEYS="$temp/keys" -- chimaera start
want 1 "ERROR: CHI_AUTHORIZED_KEYS: networking.authorized_keys: needs networking.key_file, this\
 node's own secret key"
size='a size from 16K to 1G: bytes, or a number with K, M, G or T'
refused CHI_STACK_SIZE 1K "$size" runtime.stack_size
refused CHI_STACK_SIZE 2G "$size" runtime.stack_size
size='a size from 4M to 256T: bytes, or a number with K, M, G or T'
refused CHI_MAIN_SEGMENT_SIZE 1K "$size" memory.main_segment_size
refused CHI_CLIENT_DATA_SEGMENT_SIZE 0 "$size" memory.client_data_segment_size
refused CHI_RUNTIME_DATA_SEGMENT_SIZE 4095K "$size" memory.runtime_data_segment_size

# All of them are told at once.
enter CHI_ZMQ_PORT=x CHI_LOG_LEVEL=y CHI_QUEUE_DEPTH=z -- chimaera start
want 1
ok test "$(grep -c '^ERROR: CHI_' "$temp/err")" = 3

# ---- values that would be more than values -----------------------------------------------------

for name in CHI_SCHED_WORKERS CHI_ZMQ_PORT CHI_LOG_LEVEL CHI_LOG_FILE CHI_HOSTFILE \
  CHI_TASK_TIMEOUT CHI_SECURITY CHI_KEY_FILE CHI_AUTHORIZED_KEYS; do
  for value in $'1\nnetworking:\n  port: 99' $'1\r' $'1\t2' $'1\x01' $'1\x7f' $'1\xc2\x852' \
    $'1\n'; do
    enter "$name=$value" -- chimaera start
    want 1
    ok grep -q "^ERROR: $name: expected one line without control characters, found \"1" "$temp/err"
    ok test "$(wc -l <"$temp/err")" = 1
    ok not test -e "$conf"
  done
done
enter CHI_LOG_FILE=$'/x/\xff' -- chimaera config
want 1
ok grep -q '^ERROR: CHI_LOG_FILE: invalid ' "$temp/err"

# Whatever a path is, it is that path: as a file for the log, and as one that must be read.
for path in "it's" 'a: b' 'a #b' '#' ': ' '"quoted"' 'back\slash\n' '- item' '{x}' '[x]' '*star' \
  '&anchor' '!tag' '%dir' '|' '>' '@at' '`tick`' "''" "' # CHI_ZMQ_PORT" '$HOME' '${HOME}' \
  '$${HOME}' '$$${HOME}' '${NOT_SET_ANYWHERE}' '$(id)' 'ünï' $'sep\xe2\x80\xa8arator' ' before' \
  'after ' 'a, b' '~' 'null' 'CHI_LOG_FILE:-'; do
  printf '127.0.0.1\n' >"$temp/$path"
  enter CHI_LOG_FILE="$temp/$path" CHI_HOSTFILE="$temp/$path" -- chimaera config --json
  want 0
  quiet
  json=${path//\\/\\\\}
  ok grep -qF "\"log_file\":\"$temp/${json//\"/\\\"}\"" "$temp/out"
  ok grep -qF '"address":"127.0.0.1"' "$temp/out"
  rm -f "$temp/$path"
done
# Also where nothing precedes it.
for path in '~' null true 1 '- x' '# x' "'" '"' '*' '&x' '!x' '|' '>-' '@x' '[' '{' ' ' '  x  '; do
  enter CHI_LOG_FILE="$path" -- chimaera config --json
  want 0
  quiet
  ok grep -qF "\"log_file\":\"${path//\"/\\\"}\"" "$temp/out"
done

# ---- the hostfile ------------------------------------------------------------------------------

enter CHI_HOSTFILE="$temp/nowhere" -- chimaera config
want 0 "WARNING: CHI_HOSTFILE specified but file not found: $temp/nowhere" '  hostfile: ""'
enter CHI_HOSTFILE="$temp" -- chimaera start
want 1
ok grep -q "^ERROR: CHI_HOSTFILE: expected a file, but $temp is a directory" "$temp/err"
printf '127.0.0.1\n127.0.0.1\n' >"$temp/twice"
enter CHI_HOSTFILE="$temp/twice" -- chimaera start
want 1
ok grep -q "^ERROR: $temp/twice:2:1: " "$temp/err"

# ---- keys --------------------------------------------------------------------------------------

# An engine has made a directory of the key that isn't there.
mkdir "$temp/made"
enter "${keys[@]}" CHI_KEY_FILE="$temp/made" -- chimaera start
want 1 "ERROR: CHI_KEY_FILE: expected a file, but $temp/made is a directory: does the file exist\
 that is mounted there?"
# What is in them is for the daemon to judge.
mkdir -m 755 "$temp/keys"
printf '127.0.0.1\n127.0.0.2\n' >"$temp/two"
keys+=(CHI_HOSTFILE="$temp/two" CHI_NODE=0 CHI_ZMQ_PORT="$port" CHI_LOG_FILE=-)
enter "${keys[@]}" --
want 1
ok grep -q "$temp/node.key: cannot read the secret key: No such file" "$temp/err"
ok chimaera keygen --directory "$temp" 127.0.0.1
mv "$temp/127.0.0.1.key" "$temp/node.key"
mv "$temp/127.0.0.1.pub" "$temp/keys"
chmod 644 "$temp/node.key"
enter "${keys[@]}" --
want 1
ok grep -q "$temp/node.key: its mode is 0644: others may read it" "$temp/err"
chmod 600 "$temp/node.key"

# ---- the file ----------------------------------------------------------------------------------

# What is there wins, and is left as it is.
clear_etc
printf '# mine\nnetwork: {zmq_port: 7001}\n' >"$conf"
cp "$conf" "$temp/mine"
enter_again CHI_ZMQ_PORT=x CHI_MAIN_SEGMENT_SIZE=y CHI_LOG_FILE= -- chimaera config
want 0 '  port: 7001' \
  "WARNING: $conf is there, so these have no effect: CHI_MAIN_SEGMENT_SIZE CHI_ZMQ_PORT"
ok cmp "$conf" "$temp/mine"
# Its sizes are checked, too.
cat >"$conf" <<'END'
memory: {main_segment_size: 3G}
logging: {file: '/x},"main_segment_size":1'}
END
enter_again CHI_LOG_FILE= CHI_SHM_SIZE=2G -- chimaera start
want 1 'ERROR: Total segment size (4294967296 bytes) exceeds shared memory size (2147483648 bytes)'
printf 'networking: {prot: 7001}\n' >"$conf"
enter_again CHI_LOG_FILE= -- chimaera start
want 1 "ERROR: $conf:1:14: unknown key \"networking.prot\"; did you mean \"networking.port\"?"
: >"$conf"
enter_again CHI_LOG_FILE= -- chimaera config
want 0 '  port: 5555'
ok test ! -s "$conf"

# What an earlier start has written is written anew, but not once somebody has changed it.
enter CHI_ZMQ_PORT=7002 -- chimaera config
want 0 '  port: 7002'
enter_again CHI_ZMQ_PORT=7003 -- chimaera config
want 0 '  port: 7003'
quiet
enter_again -- chimaera config
want 0 '  port: 5555'
enter CHI_ZMQ_PORT=7002 -- chimaera config
sed -i s/7002/7004/ "$conf"
enter_again CHI_ZMQ_PORT=7005 -- chimaera config
want 0 '  port: 7004'
ok test "$(stat -c %a "$conf")" = 644
# Nothing else is left there.
ok test "$(ls -A "$etc")" = chimaera_config.yaml
enter CHI_ZMQ_PORT=x -- chimaera config
ok test "$(ls -A "$etc")" = ''

enter CHI_SERVER_CONF="$temp" -- chimaera start
want 1
ok grep -q "^ERROR: CHI_SERVER_CONF: expected a file, but $temp is a directory" "$temp/err"
enter CHI_SERVER_CONF=$'/x\ny' -- chimaera start
want 1 'ERROR: CHI_SERVER_CONF: expected one line without control characters, found "/x?y"'
enter CHI_SERVER_CONF="$temp/no/such/c.yaml" -- chimaera start
want 1 "ERROR: CHI_SERVER_CONF: cannot write $temp/no/such/c.yaml: expected a file mounted there,\
 or a directory $temp/no/such where user $(id -u) may write"
odd="$temp/a 'directory' # with \\more"
mkdir "$odd"
enter CHI_SERVER_CONF="$odd/c.yaml" CHI_ZMQ_PORT=7006 -- chimaera config
want 0 '  port: 7006'
quiet
enter CHI_SERVER_CONF="$odd/d.yaml" CHI_ZMQ_PORT=x -- chimaera config
want 1 'ERROR: CHI_ZMQ_PORT: networking.port: expected a whole number from 1 to 65535, found "x"'

cd "$odd" || exit 1
enter CHI_SERVER_CONF=-n CHI_HOSTFILE=-n -- chimaera config
want 0 'WARNING: CHI_HOSTFILE specified but file not found: -n'
ok test -s ./-n
cd "$here" || exit 1

# Without the program there is no telling what is valid.
enter PATH=/usr/bin:/bin -- chimaera start
want 1
ok not test -e "$conf"

# ---- what else is known ------------------------------------------------------------------------

enter CHI_SCHED_WORKER=8 CHI_NODE=0 CHI_MODULE_PATH=/x WRP_RUNTIME_CONF=/y -- chimaera config
want 0 'WARNING: CHI_SCHED_WORKER is no variable that is known here, and has no effect' \
  'WARNING: WRP_RUNTIME_CONF has no effect here: let CHI_SERVER_CONF name the file'
ok test "$(wc -l <"$temp/err")" = 2

# The page names those variables that there are, and no others.
sed -n "/^settings='/,/'\$/p; /^others='/p" "$entry" | grep -o 'CHI_[A-Z_]*' | sort >"$temp/known"
grep -o 'CHI_[A-Z_]*' "$here/docker/README.md" | grep -v -x 'CHI_\(E[A-Z]*\)*' | sort -u \
  >"$temp/told"
ok diff "$temp/known" "$temp/told"

# ---- other commands ----------------------------------------------------------------------------

# The command sees its arguments as they are, and its status is the script's.
enter CHI_ZMQ_PORT=x -- sh -c 'printf "<%s>\n" "$@"; exit 7' sh 'a b' '' "it's"
want 7 '<a b>' '<>' "<it's>"
quiet
enter -- no_such_command
want 127
enter -- chimaera no_such_command
want 2
enter -- "$CHIMAERA" config
want 0 "  file: \"$temp/log\""
enter -- chimaera_compose --help
want 0

# ---- the daemon --------------------------------------------------------------------------------

# Starts it as a container does; $pid is the process. NAME=VALUE... then --, then arguments.
serve_at_once()
{
  split "$@"
  clear_etc
  : >"$temp/out"
  # shellcheck disable=SC2086
  env "${set[@]}" CHI_ZMQ_PORT=$port $ENTRY_SHELL "$entry" "${rest[@]}" \
    >"$temp/out" 2>"$temp/err" </dev/null &
  pid=$!
}

# The same, and waits until it is ready.
serve()
{
  local i
  serve_at_once "$@"
  for ((i = 0; i < 600; i++)); do
    ! grep -q '^chimaera: ready: ' "$temp/out" || return 0
    kill -0 $pid 2>/dev/null || break
    sleep 0.05
  done
  wrong 'the daemon does not start'
}

# Waits for its end, which must be near. Sets $status.
ended()
{
  timeout 60 tail --pid=$pid -f /dev/null || kill -9 $pid
  wait $pid
  status=$?
  pid=
}

for signal in TERM INT; do
  serve CHI_SCHED_WORKERS=1 CHI_HOSTFILE="$temp/hostfile" --
  # The script has become the daemon: no shell is between it and the signals.
  ok test "$(readlink "/proc/$pid/exe")" = "$(readlink -f "$CHIMAERA")"
  ok chimaera status
  ok chimaera call admin flush
  kill -$signal $pid
  ended
  want 0 "chimaera: ready: instance chi_main_segment_$USER:$port, 1 fast + $(
    n=$(nproc)
    echo $((n < 4 ? n : 4))
  ) slow workers, 1 pool"
  ok not chimaera status
done
ok grep -q ' info ' "$temp/log"

# With keys; the health check is as without.
serve "${keys[@]}" --
ok chimaera status --json
kill -TERM $pid
ended
want 0
ok grep -q ' messages between nodes are encrypted' "$temp/err"

# Options are those of chimaera start; the log may go to standard error.
serve CHI_LOG_FILE=- -- --grace 100
kill -TERM $pid
ended
want 0
ok grep -q '^20.* info ' "$temp/err"

# A log that cannot be written is told, and goes to standard error.
serve CHI_LOG_FILE="$temp/no/such/log" --
kill -TERM $pid
ended
want 0
ok grep -q "log file $temp/no/such/log: No such file or directory" "$temp/err"

# Whenever a signal comes, it is heard: by the script, by the program or by the daemon.
for ms in 00 02 04 06 08 10 12 14 16 18 20 25 30 35 40 50 60 70 80 90; do
  serve_at_once --
  sleep 0.0$ms
  kill -TERM $pid
  ended
  case $status in
  0 | 1 | 143) right ;;
  *) wrong "status $status" ;;
  esac
done

# Another daemon in its place: the status is the daemon's.
serve --
enter_again CHI_ZMQ_PORT=$port -- chimaera start
want 1
ok grep -q 'is already served by process' "$temp/err"
enter_again CHI_ZMQ_PORT=$port -- chimaera_stop_runtime
want 0
ended
want 0

# ---- as somebody else, and with other mounts ---------------------------------------------------

if [ "$(id -u)" = 0 ] && setpriv --reuid 65534 --regid 65534 --clear-groups true 2>/dev/null; then
  chmod 755 "$temp"
  clear_etc
  enter_again -- setpriv --reuid 65534 --regid 65534 --clear-groups "$entry" chimaera config
  want 1 "ERROR: CHI_SERVER_CONF: cannot write $conf: expected a file mounted there, or a directory\
 $etc where user 65534 may write"
  cp "$temp/hostfile" "$temp/secret" && chmod 600 "$temp/secret" && chmod 777 "$etc"
  enter_again CHI_HOSTFILE="$temp/secret" -- \
    setpriv --reuid 65534 --regid 65534 --clear-groups "$entry" chimaera config
  want 1 "ERROR: CHI_HOSTFILE: cannot read the hostfile $temp/secret: Permission denied"
else
  skip 'another user: setpriv as root is needed'
fi

# $1: commands that mount; the rest as for enter_again.
mounted()
{
  local mounts=$1
  shift
  split "$@"
  enter_again "${set[@]}" -- unshare -m sh -ec "$mounts; exec \"\$0\" \"\$@\"" "$entry" "${rest[@]}"
}

if unshare -m true 2>/dev/null; then
  small='mount -t tmpfs -o size=64m none /dev/shm'
  clear_etc
  mounted "$small" --
  want 1 'ERROR: Total segment size (2147483648 bytes) exceeds shared memory size (67108864 bytes)'
  # CHI_SHM_SIZE is believed: the daemon's memory isn't in /dev/shm. (It ends for another reason.)
  mounted "$small" CHI_SHM_SIZE=2G -- chimaera start --no-such-option
  want 2 'WARNING: CHI_SHM_SIZE (2147483648 bytes) is more than /dev/shm has (67108864 bytes)'
  # A mounted file wins even if it is word for word what was written here before.
  enter CHI_ZMQ_PORT=7007 -- chimaera config
  cp "$conf" "$temp/mine"
  mounted "mount --bind $temp/mine $conf" CHI_ZMQ_PORT=7008 CHI_LOG_FILE= -- chimaera config
  want 0 '  port: 7007' "WARNING: $conf is there, so these have no effect: CHI_ZMQ_PORT"
  # A directory that can only be read.
  clear_etc
  mounted "mount -t tmpfs -o ro none $etc" -- chimaera start
  want 1
  ok grep -q "^ERROR: CHI_SERVER_CONF: cannot write $conf: expected " "$temp/err"
  # A directory without room.
  mounted "mount -t tmpfs -o size=4k none $etc; head -c 4096 /dev/zero >$etc/x" -- \
    chimaera config
  want 1
  ok grep -q '^ERROR: CHI_SERVER_CONF: cannot write ' "$temp/err"
else
  skip 'mounts: unshare -m as root is needed'
fi

sum_up
