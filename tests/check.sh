#!/bin/sh
# check.sh - runs all the tests in all the ways they are built, in parts, and counts.
#
# usage: tests/check.sh [PART...]
#
# Each part has a log in build/check/. What fails is also shown here. The last line reads
# "N passed, M failed[, K skipped]"; the exit status is 0 only if M is. A part is in the list as
# soon as its files are there; from then on, finding nothing to test is a failure.
set -u
cd "$(dirname "$0")/.." || exit 1
LC_ALL=C
export LC_ALL
unset CC CXX SAN AMALGAM OMIT INTERLEAVE HOSTILE BUILD MAKEFLAGS MFLAGS MAKELEVEL \
  CHI_WORLD CHI_TEST_SINGLE TEST_JOBS TEST_SECONDS

here=$PWD
dir=build/check
out=$dir/output
jobs=$(nproc 2>/dev/null || echo 2)
fuzz_seconds=${FUZZ_SECONDS:-5}
warn='-Wall -Wextra -Wshadow -Werror'
total_passed=0 total_failed=0 total_skipped=0
mkdir -p "$dir"

# ---- counting ----------------------------------------------------------------------------------

# Is any of these files there?
have()
{
  for file in "$@"; do
    [ ! -e "$file" ] || return 0
  done
  return 1
}

# $1: label, $2: exit status; reads $out. A program's own closing line counts, else it is one test.
count()
{
  cat "$out" >>"$log"
  counts=$(sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed\(, \([0-9]*\) skipped\)*$/\1 \2 0\4/p' \
    "$out" | tail -n 1)
  if [ -z "$counts" ]; then
    if [ "$2" = 0 ]; then counts='1 0 0'; else counts='0 1 0'; fi
  fi
  read -r passed failed skipped <<END
$counts
END
  skipped=${skipped#0}
  skipped=${skipped:-0}
  if [ "$2" != 0 ] && [ "$failed" = 0 ]; then
    failed=1
  fi
  if [ $((passed + failed + skipped)) = 0 ]; then
    echo 'nothing was tested' >>"$out"
    failed=1
  fi
  part_passed=$((part_passed + passed))
  part_failed=$((part_failed + failed))
  part_skipped=$((part_skipped + skipped))
  if [ "$failed" != 0 ]; then
    printf '   FAILED %s (status %s)\n' "$1" "$2"
    tail -n 50 "$out" | sed 's/^/   | /'
  elif [ "$skipped" != 0 ]; then
    grep '^ *skipped' "$out" | sed "s|^ *|   $1: |"
  fi
  return "$failed"
}

# A command, for as long as the limit is, or a function of this file.
start()
{
  case $(command -v "$1") in
  */*) timeout -k 10 "$limit" "$@" ;;
  *) ("$@") ;;
  esac
}

# $1: label; the rest is a command, or a function of this file, that succeeds if all is well.
run()
{
  label=$1
  shift
  printf '### %s: %s\n' "$label" "$*" >>"$log"
  start "$@" >"$out" 2>&1 </dev/null
  count "$label" $?
}

# Takes the lines of $each that nobody has taken yet, and does each.
take_lines()
{
  number=0
  while read -r line; do
    number=$((number + 1))
    mkdir "$each/$number.taken" 2>/dev/null || continue
    # shellcheck disable=SC2086
    start "$@" $line >"$each/$number" 2>&1 </dev/null
    echo $? >"$each/$number.status"
  done <"$each/lines"
}

# $1: label; the rest is a command or a function, which is run with the words of each line of the
# input: as many at once as there are processors, counted in the order of the lines.
run_each()
{
  label=$1
  shift
  each=$dir/each
  rm -rf "$each"
  mkdir "$each"
  cat >"$each/lines"
  for _ in $(seq "$jobs"); do
    take_lines "$@" &
  done
  wait
  number=0
  while read -r line; do
    number=$((number + 1))
    printf '### %s%s: %s %s\n' "$label" "$line" "$*" "$line" >>"$log"
    out=$each/$number
    count "$label$line" "$(cat "$each/$number.status")"
  done <"$each/lines"
  out=$dir/output
}

# Builds with make: counts only if it fails.
build()
{
  printf '### make %s\n' "$*" >>"$log"
  if make -s -j "$jobs" "$@" >"$out" 2>&1 </dev/null; then
    cat "$out" >>"$log"
    return 0
  fi
  count "make $*" 1
  return 1
}

part()
{
  case $wanted in
  *" $1 "*) ;;
  *) return ;;
  esac
  part_passed=0 part_failed=0 part_skipped=0
  log=$dir/$1.log
  : >"$log"
  printf '== %-10s %s\n' "$1" "$2"
  began=$(date +%s)
  limit=300
  "part_$1"
  if [ $((part_passed + part_failed + part_skipped)) = 0 ]; then
    echo '   FAILED nothing was tested'
    part_failed=1
  fi
  printf '   %d passed, %d failed, %d skipped; %d s\n' $part_passed $part_failed $part_skipped \
    $(($(date +%s) - began))
  total_passed=$((total_passed + part_passed))
  total_failed=$((total_failed + part_failed))
  total_skipped=$((total_skipped + part_skipped))
}

# ---- the parts ---------------------------------------------------------------------------------

part_tidy()
{
  build build/tidy || return
  run 'style of every file' make -s tidy
  run 'the style test itself' tests/tidy/run.sh build/tidy
  # shellcheck disable=SC2046
  run 'shellcheck' shellcheck -x $(find . -path ./build -prune -o -path ./.git -prune -o \
    -type f -name '*.sh' -print) amalgamate tools/setup \
    tools/base-image tools/with-engine .ci/run .ci/docker
}

# Writes the two files twice, in two places, and compares.
generated_twice()
{
  mkdir -p $dir/a $dir/b
  ./amalgamate --output $dir/a && LC_ALL=C.UTF-8 ./amalgamate --output "$here/$dir/b" &&
    cmp $dir/a/chimaera.c $dir/b/chimaera.c && cmp $dir/a/chimaera.h $dir/b/chimaera.h
}

# $1: compiler, the rest is what to leave out. The very line a user would type.
compiles_alone()
{
  compiler=$1
  shift
  # shellcheck disable=SC2086
  "$compiler" -O2 $warn "$@" -c $dir/a/chimaera.c \
    -o "$dir/chimaera-$compiler$(echo "$*" | tr -d ' -').o"
}

# $1: compiler, $2: C++ compiler. Two C units and one of C++, all with the header, run as one.
links_with_users()
{
  for unit in user_a user_b; do
    # shellcheck disable=SC2086
    "$1" -std=c11 -O1 $warn -I $dir/a -c tests/amalgam/$unit.c -o $dir/$unit.o || return
  done
  # shellcheck disable=SC2086
  "$2" -std=c++17 -O1 $warn -I $dir/a -c tests/amalgam/user.cpp -o $dir/user.o || return
  # shellcheck disable=SC2046
  "$2" $dir/user_a.o $dir/user_b.o $dir/user.o "$dir/chimaera-$1.o" $(libraries) -o $dir/users &&
    $dir/users
}

# The libraries that the whole needs, as the installed pkg-config file names them.
libraries()
{
  make -s print-libraries
}

# $1: compiler. With the real environment left out, libc alone is enough, and it runs.
runs_without_real()
{
  # shellcheck disable=SC2086
  "$1" -std=c11 -O1 $warn -DCHI_OMIT_REAL -I $dir/a -c tests/amalgam/alone.c -o $dir/alone.o &&
    "$1" $dir/alone.o "$dir/chimaera-$1DCHI_OMIT_REAL.o" -o $dir/alone && $dir/alone &&
    ! readelf -d $dir/alone | grep NEEDED | grep -v 'libc\.so'
}

# $1: compiler. The same with a simulated node inside, by way of including the one file.
simulates_without_real()
{
  # shellcheck disable=SC2086
  "$1" -std=c11 -O1 $warn -I $dir/a tests/amalgam/alone_node.c -o $dir/alone_node &&
    $dir/alone_node && ! readelf -d $dir/alone_node | grep NEEDED | grep -v 'libc\.so'
}

# Every global symbol begins with chi_, and those declared and those defined are the same.
exports_what_is_declared()
{
  nm -g --defined-only $dir/chimaera-gcc.o | awk '{ print $NF }' | sort >$dir/defined
  nm -D --defined-only build/gcc-amalgam/libchimaera.so | awk '{ print $NF }' | sort >$dir/exported
  echo '#include "chimaera.h"' | gcc -I $dir/a -x c -fsyntax-only -aux-info $dir/aux - &&
    sed -n 's|^/\* [^ ]*chimaera\.h:.*extern [^(]*[ *]\(chi_[a-z0-9_]*\) (.*|\1|p' $dir/aux |
    sort -u >$dir/declared
  ! grep -v '^chi_' $dir/defined && diff $dir/declared $dir/defined &&
    diff $dir/defined $dir/exported
}

# The public header defines no macro of another name.
macros_are_ours()
{
  printf '#include <stddef.h>\n#include <stdint.h>\n' | gcc -dM -E -x c - |
    sort >$dir/macros-before
  echo '#include "chimaera.h"' | gcc -I $dir/a -dM -E -x c - | sort >$dir/macros-after
  grep -q CHI_OK $dir/a/chimaera.h &&
    ! comm -13 $dir/macros-before $dir/macros-after | grep -v -E '^#define (CHI_|chi_|CHIMAERA_H)'
}

part_amalgam()
{
  run 'amalgamate --check' ./amalgamate --check
  run 'what amalgamate refuses' tests/amalgam/amalgamate.sh
  run 'the same bytes twice' generated_twice || return
  for omit in '' -DCHI_OMIT_REAL -DCHI_OMIT_SIM '-DCHI_OMIT_REAL -DCHI_OMIT_SIM'; do
    printf '%s\n' "gcc $omit" "clang $omit"
  done >$dir/combinations
  run_each '-c chimaera.c, ' compiles_alone <$dir/combinations
  for cc in gcc clang; do
    run "$cc without the real environment" runs_without_real $cc
    run "$cc a simulated node without the real environment" simulates_without_real $cc
  done
  run 'gcc and g++ units together' links_with_users gcc g++
  run 'clang and clang++ units together' links_with_users clang clang++
  build all || return
  run 'exported names' exports_what_is_declared
  run 'macros of the header' macros_are_ours
}

# $1: compiler, $2: header.
header_stands_alone()
{
  # shellcheck disable=SC2086
  printf '#include "%s"\n#include "%s"\n' "${2##*/}" "${2##*/}" |
    "$1" -std=c11 $warn -fsyntax-only -Isources -Isim -x c -
}

part_headers()
{
  for cc in gcc clang; do
    for header in $(./amalgamate --list | grep '\.h$'); do
      run "$cc $header" header_stands_alone $cc "$header"
    done
  done
  for cxx in g++ clang++; do
    run "$cxx chimaera.h" "$cxx" -std=c++17 -Wall -Wextra -Wshadow -Werror -fsyntax-only -x c++ \
      sources/chimaera.h
  done
}

# The world is reached through the seam alone: what the core takes from outside itself is listed.
# $1: files of allowed symbols, $2: objects whose symbols may be used, $3: objects that are checked.
symbols_allowed()
{
  allowed=$1
  # shellcheck disable=SC2086
  [ -n "$3" ] && nm --defined-only $2 >$dir/own && nm -A -u $3 >$dir/wanted || return
  awk -v allowed="$allowed" -v own=$dir/own '
    BEGIN {
      for (i = split(allowed, files, " "); i > 0; i--)
        while ((getline <files[i]) > 0)
          if ($0 !~ /^(#|$)/)
            ok[$1 " " $2] = 1
      while ((getline <own) > 0)
        if (NF == 3)
          ok[$3 " "] = 1
    }
    {
      object = $1
      sub(/:.*$/, "", object)
      sub(/^.*\//, "", object)
      if (!(($NF " ") in ok) && !(($NF " " object) in ok)) {
        print object ": uses " $NF ", which is not in " allowed
        bad = 1
      }
    }
    END { exit bad }' $dir/wanted
}

# No global state: what an object may hold in writable memory is listed.
# $1: file of allowed symbols, the rest: objects.
data_allowed()
{
  allowed=$1
  shift
  [ $# -gt 0 ] && objdump -t "$@" >$dir/symbols || return
  awk -v allowed="$allowed" '
    BEGIN {
      while ((getline <allowed) > 0)
        ok[$1 " " $2] = 1
    }
    / file format / {
      object = $1
      sub(/:$/, "", object)
      sub(/^.*\//, "", object)
    }
    {
      # value, flags in seven columns, section, size, name
      split(substr($0, 26), field, /[ \t]+/)
      if (field[1] !~ /^(\.data|\.bss|\.tdata|\.tbss|\*COM\*)$/ || field[3] == field[1])
        next
      name = field[3]
      sub(/\.[0-9]+$/, "", name)
      if (!((name " " object) in ok)) {
        print object ": " name " can be written to, and is not in " allowed
        bad = 1
      }
    }
    END { exit bad }' $dir/symbols
}

part_seam()
{
  build AMALGAM=0 core || return
  all=$(./amalgamate --list | sed -n 's|^\(.*\)\.c$|build/gcc/\1.o|p')
  core=$(printf '%s\n' "$all" | grep '/sources/' | grep -v '/real_')
  core_list=tests/amalgam/core-symbols.allow
  run 'symbols of the core' symbols_allowed $core_list "$core" "$core"
  if have sim/*.c; then
    sim=$(printf '%s\n' "$all" | grep '/sim/')
    run 'symbols of the simulation' symbols_allowed \
      "$core_list tests/amalgam/sim-symbols.allow" "$core $sim" "$sim"
  fi
  # shellcheck disable=SC2086
  run 'no global state' data_allowed tests/amalgam/data-symbols.allow $all
}

# The suites there are: $1 is the directory under build/, the rest what to start them with.
suites()
{
  variant=$1
  shift
  for suite in unit sim; do
    ! have tests/$suite/*.c || run "$variant, $suite tests" "$@" "build/$variant/test-$suite"
  done
}

# The same, each test a process of its own.
suites_at_once()
{
  variant=$1
  shift
  suites "$variant" env TEST_JOBS="$jobs" "$@"
}

# The tests with real processes: $1 is the directory under build/.
real_programs()
{
  variant=$1 built=$here/build/$1
  # What libzmq doesn't free when its context ends is not for us to say.
  set -- env PATH="$built:$PATH" CHIMAERA="$built/chimaera" BUILD="$built" \
    LSAN_OPTIONS="suppressions=$here/tests/real/lsan.suppress:print_suppressions=0"
  for program in tests/real/test_*.c; do
    echo "build/$variant/real/$(basename "$program" .c)"
  done >$dir/programs
  run_each '' "$@" <$dir/programs
}

# Where everything is slow: some of the many runs of the exhaustive tests.
few=CORNER_STRIDE=20011

# In turn and at once: what one test leaves behind must not be in the way of the next.
part_modular()
{
  build CC=gcc AMALGAM=0 tests && suites gcc
  build CC=clang AMALGAM=0 tests && suites_at_once clang
}

# Without libmicrohttpd there is a program all the same, which says what it can't.
works_without_http()
{
  mkdir -p $dir/no-header && echo '#error not here' >$dir/no-header/microhttpd.h || return
  make -s -j "$jobs" CC="gcc -I$dir/no-header" CFLAGS=-O0 WERROR= BUILD=build/gcc-no-http \
    build/gcc-no-http/chimaera || return
  ! build/gcc-no-http/chimaera metrics 2>$dir/no-http &&
    grep -q 'built without libmicrohttpd' $dir/no-http &&
    ! readelf -d build/gcc-no-http/chimaera | grep microhttpd &&
    ! readelf -d build/gcc-amalgam/libchimaera.so | grep microhttpd
}

# What to leave out.
builds_without()
{
  make -s OMIT="$*" all
}

part_onefile()
{
  for cc in gcc clang; do
    build CC=$cc tests && suites_at_once $cc-amalgam
  done
  printf '%s\n' REAL SIM 'REAL SIM' >$dir/omits
  run_each 'make all without ' builds_without <$dir/omits
  run 'the program without libmicrohttpd' works_without_http
}

part_address()
{
  build CC=gcc SAN=address,undefined AMALGAM=0 tests &&
    suites_at_once gcc-address-undefined "$few"
  build CC=gcc SAN=address,undefined AMALGAM=0 real && real_programs gcc-address-undefined
  build CC=clang SAN=address,undefined tests &&
    suites_at_once clang-address-undefined-amalgam "$few"
}

part_thread()
{
  limit=600
  # The sanitizer's shadow memory doesn't fit every random address layout. Stories run in one
  # thread: a few seeds show what there is to see.
  set -- env "$few" STORY_SEEDS=8 TSAN_OPTIONS=halt_on_error=1 TEST_JOBS="$jobs"
  ! setarch -R true 2>/dev/null || set -- setarch -R "$@"
  build CC=clang SAN=thread AMALGAM=0 tests && suites clang-thread "$@"
}

part_valgrind()
{
  build tests || return
  limit=900
  # Each test is a process of its own, and valgrind looks at each as it ends.
  set -- env TEST_JOBS="$jobs" TEST_SECONDS=$limit valgrind -q --error-exitcode=9 \
    --leak-check=full build/gcc-amalgam/test-sim
  run 'stories of one node' env STORY_SEEDS=2 "$@" story
  run 'stories of devices' env STORY_SEEDS=2 "$@" bdev
  run 'stories of clusters' env "$few" STORY_SEEDS=1 "$@" cluster
}

# The hash of every story told by a build: $1 is its directory under build/.
hashes_of()
{
  for stories in story cluster; do
    env STORY_HASH=1 STORY_SEEDS=3 "$few" "build/$1/test-sim" $stories | grep '^hash ' || return
  done
}

# The same seeds have the same hashes in every build, and those that are kept: $1 is a directory
# under build/. Who changes what happens keeps the new ones: cp build/check/hashes-gcc-amalgam
# tests/sim/hashes
hashes_equal()
{
  hashes_of "$1" >"$dir/hashes-$1" && diff tests/sim/hashes "$dir/hashes-$1" &&
    wc -l <tests/sim/hashes
}

part_hashes()
{
  build tests && build CC=clang tests && build CC=clang AMALGAM=0 tests &&
    build CC=gcc SAN=address,undefined AMALGAM=0 tests &&
    build AMALGAM=0 BUILD=build/gcc-O0 CFLAGS=-O0\ -g WERROR= tests || return
  printf '%s\n' gcc-address-undefined gcc-O0 gcc-amalgam clang-amalgam clang >$dir/variants
  run_each 'hashes of ' hashes_equal <$dir/variants
}

part_races()
{
  build INTERLEAVE=1 AMALGAM=0 CFLAGS=-O1\ -g interleave || return
  run 'interleavings' build/gcc-interleave/test-interleave
  grep ' interleavings' "$out" | sed 's/^ */   /'
  run 'what is broken is noticed' tests/interleave/mutants.sh build/gcc-interleave
}

part_sweep()
{
  build sweep || return
  run 'clusters under faults' build/gcc-amalgam/sweep --seeds 300 --seconds 50 --counts --shrink 20
  sed -n 's/^\(faults\|tasks\|moves\|[0-9]* seeds\)/   \1/p' "$out"
}

# The stories of clusters on real nodes; what only the simulation can tell says so.
part_worlds()
{
  build all tests sweep build/gcc-amalgam/modules/town.so || return
  run 'processes on this machine' env CHI_WORLD=local: TEST_JOBS=8 build/gcc-amalgam/test-sim
  run 'daemons that run' env BUILD="$here/build/gcc-amalgam" tests/worlds/running.sh
  run 'processes under faults' build/gcc-amalgam/sweep --real --seconds 30 --jobs 3 --counts
  sed -n 's/^\(faults\|tasks of\|moves\|[0-9]* seeds\)/   \1/p' "$out"
}

part_hostile()
{
  build HOSTILE=1 AMALGAM=0 tests && suites_at_once gcc-hostile "$few"
}

part_real()
{
  build all real || return
  real_programs gcc-amalgam
  set -- env PATH="$built:$PATH" CHIMAERA="$built/chimaera" BUILD="$built"
  # What is predicted of an idle machine is measured on one.
  run 'tests/real/test_calibrate.sh' "$@" tests/real/test_calibrate.sh
  for script in tests/real/*.sh tests/docker/test_entrypoint.sh; do
    [ ! -x "$script" ] || [ "$script" = tests/real/test_calibrate.sh ] || echo "$script"
  done >$dir/programs
  run_each '' "$@" <$dir/programs
}

# Where there can be none, that is a skip, and the reason.
hosts_in_namespaces()
{
  timeout -k 60 "$limit" ./run-distributed-test.sh --namespaces --nodes "$1" || [ $? = 3 ]
}

# The figures of the last run.
show_figures()
{
  sed -n '/->/s/^/   /p' "$out"
}

# What is no use is refused, with what was expected.
refused()
{
  for wrong in --nodes '--nodes 1' --nodes=6 '--nodes x' --bulid; do
    # shellcheck disable=SC2086
    ./run-distributed-test.sh $wrong 2>"$dir/refused" && return 1
    [ $? = 2 ] && grep -q -e 'expected a number' -e 'there is no "--bulid"' "$dir/refused" || return
  done
  tools/base-image a b 2>/dev/null && return 1
  tools/with-engine 2>/dev/null && return 1
  DOCKER=false tools/base-image 2>"$dir/refused" && return 1
  grep -q 'no engine answers' "$dir/refused"
}

part_hosts()
{
  build distributed build/gcc-amalgam/distributed/test-judge || return
  limit=900
  run 'the judge' build/gcc-amalgam/distributed/test-judge
  run 'what is refused' refused
  if timeout 10 docker version >/dev/null 2>&1; then
    echo "   'make check-docker' does this in containers of the engine that runs here"
  else
    echo "   no Docker engine answers: hosts are namespaces ('make check-docker' starts an engine)"
  fi
  run 'three hosts' hosts_in_namespaces 3
  show_figures
}

part_containers()
{
  limit=1500
  echo "   takes a quarter of an hour or more; each step is told in $out"
  run 'two containers' ./run-distributed-test.sh --build --nodes 2
  show_figures
  for nodes in 3 5; do
    run "$nodes containers" ./run-distributed-test.sh --nodes $nodes
    show_figures
  done
  for script in tests/docker/*_image.sh; do
    [ ! -x "$script" ] || run "$script" "$script"
  done
  run 'nothing is left of them' ./run-distributed-test.sh --cleanup
}

# Installs below a fresh root, builds a stranger's program with what pkg-config says, takes it away.
installs_and_uninstalls()
{
  root=$here/$dir/root
  rm -rf "$root"
  for _ in 1 2; do
    make -s install DESTDIR="$root" prefix=/opt/chi || return
  done
  PKG_CONFIG_SYSROOT_DIR=$root PKG_CONFIG_PATH=$root/opt/chi/lib/pkgconfig
  export PKG_CONFIG_SYSROOT_DIR PKG_CONFIG_PATH
  # shellcheck disable=SC2046
  gcc tests/amalgam/alone.c $(pkgconf --cflags --libs chimaera) -o $dir/installed &&
    LD_LIBRARY_PATH=$root/opt/chi/lib $dir/installed || return
  # shellcheck disable=SC2046
  gcc tests/amalgam/alone.c $(pkgconf --cflags chimaera) "$root/opt/chi/lib/libchimaera.a" \
    $(libraries) -o $dir/installed-static && $dir/installed-static || return
  make -s uninstall DESTDIR="$root" prefix=/opt/chi && ! find "$root" ! -type d | grep .
}

# What is tracked is enough to build from.
builds_from_dist()
{
  if ! git rev-parse --git-dir >/dev/null 2>&1; then
    echo 'skipped: not a clone'
    echo '0 passed, 0 failed, 1 skipped'
    return
  fi
  make -s dist && rm -rf $dir/dist && mkdir $dir/dist &&
    tar -C $dir/dist --strip-components=1 -xzf build/chimaera-*.tar.gz &&
    make -s -C $dir/dist all
}

part_install()
{
  build all || return
  run 'install, use, uninstall' installs_and_uninstalls
  run 'the tarball builds' builds_from_dist
}

# $1: fuzzer.
fuzz()
{
  corpus=build/fuzz/${1#fuzz_}
  mkdir -p "$corpus"
  timeout -k 10 "$limit" "build/clang-fuzzer-amalgam/fuzz/$1" \
    -max_total_time="$fuzz_seconds" -timeout=10 -rss_limit_mb=2048 \
    -artifact_prefix="$corpus-" "$corpus" "tests/fuzz/seeds/${1#fuzz_}"
}

part_fuzz()
{
  build CC=clang SAN=fuzzer fuzzers || return
  limit=$((fuzz_seconds + 120))
  for source in tests/fuzz/fuzz_*.c; do
    basename "$source" .c
  done >$dir/programs
  run_each '' fuzz <$dir/programs
}

# ---- which, and the sum ------------------------------------------------------------------------

known='tidy amalgam headers'
have sources/*.c && known="$known seam"
have tests/unit/*.c tests/sim/*.c && known="$known modular onefile address thread"
have tests/sim/*.c && known="$known hashes hostile valgrind worlds"
have tests/sweep/*.c && known="$known sweep"
have tests/interleave/*.c && known="$known races"
have tests/real/test_*.c tests/real/*.sh && known="$known real"
have tests/distributed/*.c && known="$known hosts"
have tests/fuzz/fuzz_*.c && known="$known fuzz"
known="$known install"
# What needs an engine runs only if it is asked for.
more='containers'

for name in "$@"; do
  case " $known $more " in
  *" $name "*) ;;
  *)
    echo "check.sh: no part $name; there are: $known $more" >&2
    exit 2
    ;;
  esac
done
wanted=" ${*:-$known} "

start=$(date +%s)
part tidy 'style of sources, tests, tools and scripts'
part amalgam 'the one file: as generated, compiled by itself, its names'
part headers 'each header by itself, twice; the public one in C++'
part seam 'what the core asks of the world'
part modular 'unit and simulation tests, file by file, gcc and clang'
part onefile 'unit and simulation tests, one file, gcc and clang'
part address 'the same, and real processes, under address and undefined behaviour sanitizers'
part thread 'the same under the thread sanitizer'
part valgrind 'simulation under valgrind'
part races 'interleavings of the lock-free protocols'
part hashes 'one seed, one hash, in every build'
part sweep 'whole clusters under faults drawn from seeds'
part hostile 'failing allocations, moving stacks, spurious wake-ups'
part worlds 'stories of clusters, on real nodes'
part real 'real processes'
part hosts 'a cluster on hosts of its own, and what may happen to one'
part containers 'the same in containers'
part fuzz "fuzzers, $fuzz_seconds seconds each"
part install 'installation and the tarball'
echo "== all: $(($(date +%s) - start)) s; logs in $dir"
if [ $total_skipped = 0 ]; then
  echo "$total_passed passed, $total_failed failed"
else
  echo "$total_passed passed, $total_failed failed, $total_skipped skipped"
fi
[ $total_failed = 0 ]
