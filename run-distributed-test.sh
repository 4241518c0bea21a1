#!/bin/sh
# run-distributed-test.sh - a cluster on hosts of its own, and everything that may happen to one.
#
# usage: run-distributed-test.sh [--build] [--cleanup] [--nodes N] [--namespaces]
#
# --build       builds the containers' image anew; without it, only if there is none
# --nodes N     2 to 5 nodes, 172.28.0.2 and up; 2 without it
# --namespaces  hosts are network namespaces of this machine; no engine is needed
# --cleanup     alone: removes what earlier runs have left; else does so in the end
#
# Hostfile, configurations, logs and ledgers are in build/distributed/shared, which containers see
# as /shared. The last line is "N passed, M failed"; the exit status is 0 if M is, and 3 where there
# can be no such hosts.
set -u
cd "$(dirname "$0")" || exit
LC_ALL=C
export LC_ALL

usage()
{
  sed -n '4,9s/^# \{0,1\}//p' "$0"
}

refuse()
{
  echo "run-distributed-test.sh: $*" >&2
  usage >&2
  exit 2
}

build=0 cleanup=0 namespaces=0 nodes=2 alone=$*
while [ $# -gt 0 ]; do
  case $1 in
  --build) build=1 ;;
  --cleanup) cleanup=1 ;;
  --namespaces) namespaces=1 ;;
  --nodes | --nodes=*)
    if [ "$1" = --nodes ] && [ $# -gt 1 ]; then
      shift
    fi
    nodes=${1#--nodes=}
    case $nodes in
    [2-5]) ;;
    *) refuse "--nodes: expected a number from 2 to 5, found \"${nodes#--nodes}\"" ;;
    esac
    ;;
  --help)
    usage
    exit 0
    ;;
  *) refuse "there is no \"$1\"" ;;
  esac
  shift
done
hosts=$(seq -s ' ' "$nodes")

# shellcheck source=tests/distributed/scenario.sh
. tests/distributed/scenario.sh
if [ $namespaces = 1 ]; then
  shared=$PWD/build/distributed/namespaces
  bin=$PWD/build/gcc-amalgam
  # shellcheck source=tests/distributed/hosts_netns.sh
  . tests/distributed/hosts_netns.sh
else
  shared=$PWD/build/distributed/shared
  # shellcheck source=tests/distributed/hosts_docker.sh
  . tests/distributed/hosts_docker.sh
fi

# $inside_hosts is set when this runs again where the hosts are to be.
if [ -z "${inside_hosts:-}" ]; then
  missing=$(hosts_missing)
  if [ "$alone" = --cleanup ]; then
    [ -n "$missing" ] || hosts_remove
    rm -rf build/distributed
    exit
  fi
  if [ -n "$missing" ]; then
    echo "skipped: $missing"
    echo '0 passed, 0 failed, 1 skipped'
    exit 3
  fi
  rm -rf "$shared"
  mkdir -p "$shared/log" "$shared/ledger" "$shared/journal" || exit
  hosts_prepare || exit
fi

finish()
{
  hosts_close
  if [ $cleanup = 1 ]; then
    hosts_remove
    rm -rf "$shared"
  fi
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

scenario
echo "$passed passed, $failed failed"
[ $failed = 0 ]
