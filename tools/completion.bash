# completion.bash - completion of chimaera's commands, options, pools and methods for bash.

# Words of the help: commands ($1 empty) or a command's options.
_chimaera_help()
{
  if [ -z "$1" ]; then
    "${COMP_WORDS[0]}" --help 2>/dev/null | sed -n 's/^  \([a-z][a-z]*\) .*/\1/p'
  else
    "${COMP_WORDS[0]}" "$1" --help 2>/dev/null | sed -n 's/^  \(--[a-z-]*\).*/\1/p'
  fi
}

# Ids of the pools of a running daemon; methods and fields of one.
_chimaera_pools()
{
  "${COMP_WORDS[0]}" status 2>/dev/null | sed -n '/^pools$/,/^$/s/^  *\([0-9][0-9.]*\) .*/\1/p'
}

_chimaera_methods()
{
  "${COMP_WORDS[0]}" call "$1" 2>/dev/null | sed -n 's/^  [0-9][0-9]* //p'
}

_chimaera_fields()
{
  "${COMP_WORDS[0]}" call "$1" 2>/dev/null |
    sed -n "/^  [0-9]* $2\$/,/^\$/s/^      in[out]*  *[^ ]*  *\([A-Za-z0-9_.]*\)\(\[*\).*/\1=\2/p" |
    sed 's/=\[$/[/' | sort -u
}

# Values of the option $2 of the command $1, if it takes one; files, if they are not listed here.
_chimaera_values()
{
  "${COMP_WORDS[0]}" "$1" --help 2>/dev/null | grep -q -e "^  $2 [A-Z]" || return 1
  case $2 in
  --query) echo local broadcast dynamic id: hash: range: physical: ;;
  --log-level) echo debug info warning error ;;
  --test-case) echo bdev_io bdev_allocation bdev_task_alloc latency ;;
  esac
}

# How many arguments of the command, without its options, come before the word being completed.
_chimaera_arguments()
{
  local i
  arguments=()
  for ((i = 2; i < COMP_CWORD; i++)); do
    case ${COMP_WORDS[i]} in
    --instance | --timeout | --listen | --query | --manifest) i=$((i + 1)) ;;
    -*) ;;
    *) arguments+=("${COMP_WORDS[i]}") ;;
    esac
  done
}

_chimaera()
{
  local word=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]-} arguments words=
  COMPREPLY=()
  if [ "$COMP_CWORD" = 1 ] || [ "$command" = help ]; then
    words=$(_chimaera_help '')
  elif words=$(_chimaera_values "$command" "${COMP_WORDS[COMP_CWORD - 1]}"); then
    :
  elif [ "${word#-}" != "$word" ]; then
    words=$(_chimaera_help "$command")
  else
    _chimaera_arguments
    case $command/${#arguments[@]} in
    call/0 | get/0 | put/1) words=$(_chimaera_pools) ;;
    call/1) words=$(_chimaera_methods "${arguments[0]}") ;;
    call/*)
      compopt -o nospace 2>/dev/null
      words=$(_chimaera_fields "${arguments[0]}" "${arguments[1]}")
      ;;
    esac
  fi
  if [ -n "$words" ]; then
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
  else
    mapfile -t COMPREPLY < <(compgen -f -- "$word")
  fi
}

complete -F _chimaera chimaera
