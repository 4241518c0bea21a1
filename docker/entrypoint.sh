#!/bin/sh
# entrypoint.sh - makes a configuration of a container's CHI_ variables, and becomes the daemon.
#
# usage: entrypoint.sh [OPTION...]          chimaera start with these options
#        entrypoint.sh COMMAND [WORD...]    any other command; those of chimaera find the file, too
#
# A file that is mounted at $CHI_SERVER_CONF wins over the variables. README.md explains them all.
set -u

# What goes into the file, and what else is known: the daemon reads two of them itself.
settings='CHI_SCHED_WORKERS CHI_PROCESS_REAPER_WORKERS CHI_MAIN_SEGMENT_SIZE
  CHI_CLIENT_DATA_SEGMENT_SIZE CHI_RUNTIME_DATA_SEGMENT_SIZE CHI_ZMQ_PORT CHI_LOG_LEVEL CHI_LOG_FILE
  CHI_STACK_SIZE CHI_QUEUE_DEPTH CHI_HEARTBEAT_INTERVAL CHI_TASK_TIMEOUT CHI_HOSTFILE CHI_SECURITY
  CHI_KEY_FILE CHI_AUTHORIZED_KEYS'
others='CHI_SERVER_CONF CHI_SHM_SIZE CHI_NODE CHI_MODULE_PATH'
size_max=281474976710656       # 256T, as the daemon has it
shm_usual=2147483648           # where there is no telling how much there is
next_line=$(printf '\302\205') # ends a line in YAML, and is no control character of one byte
file=${CHI_SERVER_CONF:-/etc/chimaera/chimaera_config.yaml}
draft=''

# ---- telling -----------------------------------------------------------------------------------

# Whatever is in a value, it comes out as one line.
say()
{
  printf '%s' "$*" | LC_ALL=C tr '\001-\037\177' '?' >&2
  echo >&2
}

fail()
{
  say "ERROR: $*"
  exit 1
}

# An engine makes a directory where a file is to be mounted that isn't there.
refuse_directory()
{
  [ ! -d "$2" ] ||
    fail "$1: expected a file, but $2 is a directory: does the file exist that is mounted there?"
}

# Sets $value to that of a variable; one that is empty counts as not set.
look_up()
{
  eval "value=\${$1:-}"
}

# ---- sizes -------------------------------------------------------------------------------------

# Sets $bytes to the size $1, reckoned and rounded as the daemon does it; false if it isn't one.
parse_size()
{
  number=$1 unit=1 fraction=
  [ ${#number} -le 40 ] || return
  case $number in
  *[KkMmGgTt][Ii][Bb]) number=${number%??} ;;
  *[Bb]) number=${number%?} ;;
  esac
  case $number in
  *[Kk]) unit=1024 ;;
  *[Mm]) unit=1048576 ;;
  *[Gg]) unit=1073741824 ;;
  *[Tt]) unit=1099511627776 ;;
  esac
  [ $unit = 1 ] || number=${number%?}
  case $number in
  *.*)
    fraction=${number#*.}
    [ -n "$fraction" ] && [ $unit != 1 ] || return
    ;;
  esac
  number=${number%%.*}
  case $number:$fraction in
  :* | *[!0-9:]*) return 1 ;;
  esac
  multiply
}

# Sets $bytes to $number.$fraction times $unit, the fraction worked off from its last digit.
multiply()
{
  while [ "$number" != 0 ] && [ "$number" != "${number#0}" ]; do
    number=${number#0} # else the shell takes it for octal
  done
  [ ${#number} -le 15 ] && [ "$number" -le $((size_max / unit)) ] || return
  bytes=0
  while [ -n "$fraction" ]; do
    bytes=$(((unit * ${fraction#"${fraction%?}"} + bytes) / 10))
    fraction=${fraction%?}
  done
  bytes=$((number * unit + bytes))
  [ $bytes -le $size_max ]
}

# $1: a variable, $2: its default. Sets $bytes.
read_size()
{
  look_up "$1"
  parse_size "${value:-$2}" && return
  say "ERROR: Invalid size format: $value"
  say "$1: expected bytes, or a number with K, M, G or T, such as 1G, 512MB or 1.5g; at most 256T"
  exit 1
}

# Sets $total to the sum of the segments.
add_sizes()
{
  read_size CHI_MAIN_SEGMENT_SIZE 1G
  total=$bytes
  read_size CHI_CLIENT_DATA_SEGMENT_SIZE 512M
  total=$((total + bytes))
  read_size CHI_RUNTIME_DATA_SEGMENT_SIZE 512M
  total=$((total + bytes))
  read_size CHI_STACK_SIZE 64K
}

# Sets $bytes to the size of what is mounted at /dev/shm; false if nothing is, or without a limit.
find_shm()
{
  # shellcheck disable=SC2046
  set -- $(df -P -k /dev/shm 2>/dev/null | tail -n 1)
  [ $# = 6 ] && [ "$6" = /dev/shm ] && [ "$2" -gt 0 ] && bytes=$(($2 * 1024))
}

# Sets $bytes to the memory limit of the container; false if there is none.
find_limit()
{
  for limit in /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes; do
    bytes=$(cat "$limit" 2>/dev/null)
    case $bytes in
    '' | *[!0-9]* | ?????????????????*) ;; # "max", or what version 1 has in its place
    *) return 0 ;;
    esac
  done
  return 1
}

# $total must fit into the shared memory that there is, or that CHI_SHM_SIZE says there is.
check_total()
{
  find_shm || bytes=$shm_usual
  shm=$bytes
  if [ -n "${CHI_SHM_SIZE:-}" ]; then
    read_size CHI_SHM_SIZE 2G
    [ "$bytes" -le "$shm" ] ||
      say "WARNING: CHI_SHM_SIZE ($bytes bytes) is more than /dev/shm has ($shm bytes)"
    shm=$bytes
  fi
  if [ "$total" -gt "$shm" ]; then
    say "ERROR: Total segment size ($total bytes) exceeds shared memory size ($shm bytes)"
    say 'Give the container as much (--shm-size; shm_size in a compose file), and CHI_SHM_SIZE, if'
    say 'it is set, the same value; or lower the sizes of the three segments.'
    exit 1
  fi
  if find_limit && [ "$total" -gt "$bytes" ]; then
    say "WARNING: Total segment size ($total bytes) exceeds the memory limit ($bytes bytes);" \
      'what goes beyond that will be refused'
  fi
}

# ---- the file ----------------------------------------------------------------------------------

# What would end a line of the file is refused; all else is for the daemon to judge.
check_line()
{
  case $2 in
  *[[:cntrl:]]* | *"$next_line"*)
    fail "$1: expected one line without control characters, found \"$2\""
    ;;
  esac
}

# A YAML scalar. Within these quotes only the quote itself means anything, and "${" to the daemon.
quote()
{
  printf "'%s'" "$(printf '%s' "$1" | LC_ALL=C sed "s/'/''/g; s/\${/\$&/g")"
}

# $1: the section; then KEY=VARIABLE, a line for each that is set. The line ends with the variable,
# by which explain finds it.
write_section()
{
  heading=$1:
  shift
  for pair in "$@"; do
    look_up "${pair#*=}"
    [ -n "$value" ] || continue
    [ "${pair#*=}:$value" != CHI_LOG_FILE:- ] || value=
    printf '%s  %s: %s # %s\n' "${heading:+$heading
}" "${pair%%=*}" "$(quote "$value")" "${pair#*=}"
    heading=
  done
}

write_file()
{
  echo '# Written by entrypoint.sh from CHI_ variables, anew at each start until somebody edits it.'
  write_section workers sched_threads=CHI_SCHED_WORKERS \
    process_reaper_threads=CHI_PROCESS_REAPER_WORKERS
  write_section memory main_segment_size=CHI_MAIN_SEGMENT_SIZE \
    client_data_segment_size=CHI_CLIENT_DATA_SEGMENT_SIZE \
    runtime_data_segment_size=CHI_RUNTIME_DATA_SEGMENT_SIZE
  write_section networking port=CHI_ZMQ_PORT hostfile=CHI_HOSTFILE security=CHI_SECURITY \
    key_file=CHI_KEY_FILE authorized_keys=CHI_AUTHORIZED_KEYS
  write_section logging level=CHI_LOG_LEVEL file=CHI_LOG_FILE
  write_section runtime stack_size=CHI_STACK_SIZE queue_depth=CHI_QUEUE_DEPTH \
    heartbeat_interval=CHI_HEARTBEAT_INTERVAL task_timeout=CHI_TASK_TIMEOUT
}

# The last line of a file of ours, from those before it: it fits until somebody edits them.
seal()
{
  echo "# $(cksum)"
}

# Whether the file is to be used as it is: it is mounted, or somebody else's than this script's.
is_given()
{
  [ -e "$file" ] || return
  awk -v file="$file" '$5 == file { found = 1 } END { exit !found }' /proc/self/mountinfo ||
    [ "$(tail -n 1 "$file")" != "$(sed \$d "$file" | seal)" ]
}

# The daemon's complaints about the draft, by the variable that the line came from.
explain()
{
  DRAFT=$draft LC_ALL=C awk '
    BEGIN {
      draft = ENVIRON["DRAFT"] ":"
      while ((getline line <ENVIRON["DRAFT"]) > 0)
        from[++count] = match(line, / # CHI_[A-Z_]+$/) ? substr(line, RSTART + 3) ": " : ""
    }
    /^note: / { next }
    sub(/^error: /, "ERROR: ") && index($0, draft) == 8 {
      rest = substr($0, 8 + length(draft))
      line = rest + 0
      sub(/^[0-9]+:[0-9]+: /, "", rest)
      $0 = "ERROR: " from[line] rest
    }
    { print }' >&2
}

check_hostfile()
{
  [ -n "${CHI_HOSTFILE:-}" ] || return 0
  refuse_directory CHI_HOSTFILE "$CHI_HOSTFILE"
  [ ! -e "$CHI_HOSTFILE" ] || return 0
  say "WARNING: CHI_HOSTFILE specified but file not found: $CHI_HOSTFILE"
  say 'WARNING: this node will be a cluster of its own'
  CHI_HOSTFILE=
}

make_file()
{
  for name in $settings; do
    look_up "$name"
    check_line "$name" "$value"
  done
  check_hostfile
  [ -z "${CHI_KEY_FILE:-}" ] || refuse_directory CHI_KEY_FILE "$CHI_KEY_FILE"
  : "${CHI_LOG_FILE:=/var/log/chimaera/chimaera.log}"
  directory=$(dirname "$file")
  draft=$(mktemp "$directory/.draft.XXXXXX" 2>/dev/null) ||
    fail "CHI_SERVER_CONF: cannot write $file: expected a file mounted there, or a directory" \
      "$directory where user $(id -u) may write"
  write_file >"$draft" || fail "CHI_SERVER_CONF: cannot write $draft"
  complaints=$(chimaera config --check "$draft" 2>&1 >/dev/null) || {
    printf '%s\n' "$complaints" | explain
    exit 1
  }
  last=$(seal <"$draft")
  if ! { echo "$last" >>"$draft" && chmod 644 "$draft" && mv "$draft" "$file"; }; then
    fail "CHI_SERVER_CONF: cannot write $file"
  fi
}

# The file decides. Sets $total to the sum of its segments.
take_file()
{
  unused='' total=0
  for name in $settings; do
    look_up "$name"
    [ -z "$value" ] || unused="$unused $name"
  done
  [ -z "$unused" ] || say "WARNING: $file is there, so these have no effect:$unused"
  complaints=$(chimaera config --check "$file" 2>&1 >/dev/null) || {
    printf '%s\n' "$complaints" | explain
    exit 1
  }
  for size in $(chimaera config --check "$file" --json 2>/dev/null | tr ',' '\n' |
    sed -n 's/^"[a-z_]*_segment_size"://p'); do
    total=$((total + size))
  done
}

# One that is misspelled would have no effect, and nobody would know.
warn_of_strangers()
{
  awk 'BEGIN { for (name in ENVIRON) if (name ~ /^CHI_/) print name }' | while read -r name; do
    case " $(echo "$settings" "$others" | tr -s '\n' ' ') " in
    *" $name "*) ;;
    *) say "WARNING: $name is no variable that is known here, and has no effect" ;;
    esac
  done
  [ -z "${WRP_RUNTIME_CONF:-}" ] ||
    say 'WARNING: WRP_RUNTIME_CONF has no effect here: let CHI_SERVER_CONF name the file'
}

# $1: yes if the daemon is to start.
prepare()
{
  given=no
  check_line CHI_SERVER_CONF "$file"
  refuse_directory CHI_SERVER_CONF "$file"
  ! is_given || given=yes
  if [ $given = yes ]; then take_file; else add_sizes; fi
  [ "$1" = no ] || check_total
  warn_of_strangers
  [ $given = yes ] || make_file
}

# The first process of a container hears only signals that it has asked for. Others do without: what
# comes just before exec would be lost.
if [ $$ = 1 ]; then
  trap 'exit 143' TERM
  trap 'exit 130' INT
fi
trap '[ -z "$draft" ] || rm -f "$draft"' EXIT

case ${1:-} in
'' | -*) set -- chimaera start "$@" ;;
esac
case $file in
-*) file=./$file ;; # not an option of what reads it
esac
CHI_SERVER_CONF=$file
export CHI_SERVER_CONF
case "${1##*/} ${2:-}" in
'chimaera start' | 'chimaera_start_runtime '*) prepare yes ;;
'chimaera '* | 'chimaera_'*) prepare no ;;
esac
exec "$@"
