# Makefile - builds, tests and installs Chimaera. `make help` lists the targets.
#
# A build never writes outside build/. Each combination of the variables below has its own
# directory there, build/<variant>:
#
#   CC=gcc|clang          compiler
#   SAN=                  sanitizers: address,undefined or thread or fuzzer (clang only)
#   AMALGAM=1             1: the core is compiled as one file, as it ships; 0: file by file
#   HTTP=1                0: without libmicrohttpd, which only the program needs
#   OMIT=                 REAL, SIM or both: parts to leave out
#   INTERLEAVE=0          1: each atomic operation is a scheduling point of the test
#   HOSTILE=0             1: allocations fail, stacks move, wake-ups are spurious
#   CFLAGS=, LDFLAGS=, WERROR=-Werror, BUILD=, prefix=, DESTDIR=   as usual

ifeq ($(origin CC),default)
CC := gcc
endif
ifeq ($(origin CXX),default)
CXX := $(if $(findstring clang,$(CC)),$(subst clang,clang++,$(CC)),$(subst gcc,g++,$(CC)))
endif
SAN ?=
AMALGAM ?= 1
OMIT ?=
INTERLEAVE ?= 0
HOSTILE ?= 0
CFLAGS ?= -O2 -g
WERROR ?= -Werror
prefix ?= /usr/local
bindir ?= $(prefix)/bin
libdir ?= $(prefix)/lib
includedir ?= $(prefix)/include
datadir ?= $(prefix)/share
unitdir ?= $(prefix)/lib/systemd/system
tmpfilesdir ?= $(prefix)/lib/tmpfiles.d
completiondir ?= $(datadir)/bash-completion/completions
export LC_ALL := C

comma := ,
VERSION := $(shell sed -n 's/^\#define CHI_VERSION "\(.*\)"/\1/p' sources/chimaera.h)
VARIANT := $(subst $() ,-,$(strip $(notdir $(firstword $(CC))) $(subst $(comma),-,$(SAN)) \
  $(if $(filter 1,$(AMALGAM)),amalgam) $(addprefix omit-,$(OMIT)) \
  $(if $(filter 1,$(INTERLEAVE)),interleave) $(if $(filter 1,$(HOSTILE)),hostile)))
BUILD ?= build/$(VARIANT)

# ---- what there is ---------------------------------------------------------------------------

CORE := $(sort $(filter-out $(if $(filter REAL,$(OMIT)),sources/real_%) \
  $(if $(filter SIM,$(OMIT)),sim/%),$(wildcard sources/*.c sim/*.c)))
HEADERS := $(wildcard sources/*.h sim/*.h)
# Without the real environment there is no daemon to talk to, so there is no program.
TOOL := $(if $(filter REAL,$(OMIT)),,$(filter-out tools/tidy.c \
  $(if $(filter SIM,$(OMIT)),tools/trace%),$(wildcard tools/*.c)))
SUPPORT := $(wildcard tests/*.c)
REAL_MAIN := $(wildcard tests/real/test_*.c)
REAL_SHARED := $(filter-out $(REAL_MAIN),$(wildcard tests/real/*.c))
MODULE := $(wildcard tests/modules/*.c)
FUZZER := $(wildcard tests/fuzz/fuzz_*.c)
ALIASES := chimaera_start_runtime chimaera_stop_runtime chimaera_compose chimaera_bench

# A library is linked if, and only if, a source file includes its header.
included = $(if $(filter-out $(if $(filter REAL,$(OMIT)),sources/real_%),$(shell \
  grep -l '^\#include <$(1)\.h>' sources/*.c 2>/dev/null)),$(2))
LIBRARIES := $(call included,yaml,-lyaml) $(call included,ev,-lev) $(call included,zmq,-lzmq) \
  -pthread -ldl
# What the program alone needs: without libmicrohttpd `chimaera metrics` prints and doesn't serve.
ifeq ($(origin HTTP),undefined)
HTTP := $(shell $(CC) -E -include microhttpd.h -x c /dev/null >/dev/null 2>&1 && echo 1)
endif
TOOL_LIBRARIES := $(if $(filter 1,$(HTTP)),-lmicrohttpd)

# ---- flags -----------------------------------------------------------------------------------

# Fuzzers bring their own main function, so only they link with libFuzzer.
san_all := $(if $(filter fuzzer,$(SAN)),address$(comma)undefined,$(SAN))
san_link := $(if $(SAN),-fsanitize=$(san_all))
san_compile := $(if $(SAN),$(san_link) -fno-omit-frame-pointer -fno-sanitize-recover=undefined) \
  $(if $(filter fuzzer,$(SAN)),-fsanitize=fuzzer-no-link)
DEFINES := $(addprefix -DCHI_OMIT_,$(OMIT)) \
  $(if $(filter 1,$(HTTP)),,-DHTTP_LEFT_OUT) \
  $(if $(filter 1,$(INTERLEAVE)),-DCHI_INTERLEAVE -DLANE_ENTRIES=2u) \
  $(if $(filter 1,$(HOSTILE)),-DCHI_HOSTILE)
WARN := -Wall -Wextra -Wshadow $(WERROR)
COMPILE = $(CC) -std=c11 $(WARN) $(CFLAGS) $(san_compile) $(DEFINES) -fPIC -pthread \
  -Isources -Isim -Itests -Itools -I$(BUILD)/tools -MMD -MP
LINK = $(CC) $(CFLAGS) $(LDFLAGS) $(san_link) -rdynamic

objects = $(patsubst %.c,$(BUILD)/%.o,$(1))

# Tests and tools link the whole core with its private functions reachable, either way of building.
ONE := $(BUILD)/amalgam
MODULAR_LIB := $(BUILD)/libchimaera-modular.a
ifeq ($(AMALGAM),1)
CORE_LINK := $(BUILD)/chimaera-internal.o
CORE_FLAGS := $(CORE_LINK)
else
CORE_LINK := $(MODULAR_LIB)
CORE_FLAGS := -Wl,--whole-archive $(MODULAR_LIB) -Wl,--no-whole-archive
endif

# ---- what is built ---------------------------------------------------------------------------

LIBS := $(BUILD)/libchimaera.a $(BUILD)/libchimaera.so
PROGRAM := $(if $(TOOL),$(BUILD)/chimaera)
TEST_SUITES := $(if $(wildcard tests/unit/*.c),$(BUILD)/test-unit) \
  $(if $(wildcard tests/sim/*.c),$(BUILD)/test-sim)
TEST_REAL := $(patsubst tests/real/%.c,$(BUILD)/real/%,$(REAL_MAIN))
TEST_MODULES := $(patsubst tests/modules/%.c,$(BUILD)/modules/%.so,$(MODULE)) \
  $(BUILD)/modules/town.so
TEST_FUZZ := $(patsubst tests/fuzz/%.c,$(BUILD)/fuzz/%,$(FUZZER))

all: $(LIBS) $(PROGRAM) $(addprefix $(BUILD)/,$(if $(TOOL),$(ALIASES)))
tests: $(TEST_SUITES)
real: $(PROGRAM) $(TEST_REAL) $(TEST_MODULES)
interleave: $(BUILD)/test-interleave
sweep: $(BUILD)/sweep
fuzzers: $(TEST_FUZZ)
core: $(call objects,$(CORE))

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(COMPILE) -c $< -o $@

$(MODULAR_LIB): $(call objects,$(CORE))
	@rm -f $@
	$(AR) rcs $@ $^

# The one file is generated where it is compiled, so that a build never changes the committed one.
$(ONE)/chimaera.c: amalgamate $(CORE) $(HEADERS)
	@mkdir -p $(ONE)
	./amalgamate --output $(ONE)

$(ONE)/chimaera.o: $(ONE)/chimaera.c
	$(CC) -std=c11 $(WARN) $(CFLAGS) $(san_compile) $(DEFINES) -fPIC -pthread -c $< -o $@

$(BUILD)/chimaera-internal.o: $(ONE)/chimaera.c
	$(CC) -std=c11 $(WARN) $(CFLAGS) $(san_compile) $(DEFINES) -fPIC -pthread \
	  -D'CHI_PRIVATE=__attribute__((visibility("hidden")))' -c $< -o $@

$(BUILD)/libchimaera.a: $(ONE)/chimaera.o
	@rm -f $@
	$(AR) rcs $@ $^

$(BUILD)/libchimaera.so.0: $(ONE)/chimaera.o
	$(CC) $(CFLAGS) $(LDFLAGS) $(san_link) -shared -Wl,-soname,$(@F) -Wl,-Bsymbolic-functions \
	  $^ $(LIBRARIES) -o $@

$(BUILD)/libchimaera.so: $(BUILD)/libchimaera.so.0
	ln -sf $(<F) $@

$(BUILD)/chimaera: $(call objects,$(TOOL)) $(CORE_LINK)
	$(LINK) $(call objects,$(TOOL)) $(CORE_FLAGS) $(LIBRARIES) $(TOOL_LIBRARIES) -o $@

$(addprefix $(BUILD)/,$(ALIASES)): $(PROGRAM)
	ln -sf chimaera $@

$(BUILD)/libtest.a: $(call objects,$(SUPPORT))
	@rm -f $@
	$(AR) rcs $@ $^

# The programs' own parts, without their main function, for the tests of them.
TOOL_LIB := $(if $(TOOL),$(BUILD)/libtools.a)
$(BUILD)/libtools.a: $(call objects,$(filter-out tools/chimaera.c,$(TOOL)))
	@rm -f $@
	$(AR) rcs $@ $^

# The page of trace_html.c, as strings.
$(BUILD)/tools/html_page.inc: $(wildcard tools/html/*)
	@mkdir -p $(@D)
	tools/html/embed.sh >$@

$(BUILD)/tools/trace_html.o: $(BUILD)/tools/html_page.inc

# A directory of tests is one program: test-unit, test-sim, test-interleave.
define suite
$(BUILD)/test-$(1): $(call objects,$(wildcard tests/$(1)/*.c)) $(BUILD)/libtest.a $(TOOL_LIB) \
    $(CORE_LINK)
	$$(LINK) $(call objects,$(wildcard tests/$(1)/*.c)) $(BUILD)/libtest.a $(TOOL_LIB) \
	  $(CORE_FLAGS) $(LIBRARIES) $(TOOL_LIBRARIES) -o $$@
endef
$(foreach dir,unit sim interleave,$(eval $(call suite,$(dir))))

# Whole clusters under faults drawn from seeds.
SWEEP_OBJECTS := $(call objects,$(wildcard tests/sweep/*.c) tests/sim/bdev_shadow.c)
$(BUILD)/sweep: $(SWEEP_OBJECTS) $(CORE_LINK)
	$(LINK) $(SWEEP_OBJECTS) $(CORE_FLAGS) $(LIBRARIES) -o $@

real_shared := $(call objects,$(REAL_SHARED)) $(BUILD)/libtest.a
$(BUILD)/real/%: $(BUILD)/tests/real/%.o $(real_shared) $(CORE_LINK)
	@mkdir -p $(@D)
	$(LINK) $< $(real_shared) $(CORE_FLAGS) $(LIBRARIES) -o $@

# A cluster on hosts of its own, as its users meet it: the public header and the library.
TRAFFIC := $(call objects,$(wildcard tests/distributed/traffic*.c))
distributed: $(PROGRAM) $(BUILD)/distributed/traffic $(BUILD)/distributed/courier.so
$(BUILD)/distributed/test-judge: $(call objects,tests/distributed/test_judge.c \
    tests/distributed/traffic_judge.c) $(BUILD)/libtest.a $(BUILD)/libchimaera.a
	@mkdir -p $(@D)
	$(LINK) $^ $(LIBRARIES) -o $@

$(BUILD)/distributed/traffic: $(TRAFFIC) $(BUILD)/libchimaera.a
	@mkdir -p $(@D)
	$(LINK) $^ $(LIBRARIES) -o $@

$(BUILD)/distributed/courier.so: $(BUILD)/tests/distributed/courier.o
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(LDFLAGS) $(san_link) -shared $< -o $@

# That of the stories of clusters, for daemons.
$(BUILD)/modules/town.so: $(BUILD)/tests/sim/town_module.o
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(LDFLAGS) $(san_link) -shared $< -o $@

# Modules are loaded into a program that has the core in it, so they link with nothing.
$(BUILD)/modules/%.so: $(BUILD)/tests/modules/%.o
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(LDFLAGS) $(san_link) -shared $< -o $@

$(BUILD)/fuzz/%: $(BUILD)/tests/fuzz/%.o $(TOOL_LIB) $(CORE_LINK)
	@mkdir -p $(@D)
	$(LINK) -fsanitize=fuzzer $< $(TOOL_LIB) $(CORE_FLAGS) $(LIBRARIES) $(TOOL_LIBRARIES) -o $@

# What the simulation says of large clusters.
$(BUILD)/scale: $(BUILD)/tests/scale/scale.o $(CORE_LINK)
	$(LINK) $< $(CORE_FLAGS) $(LIBRARIES) -o $@

build/tidy: tools/tidy.c
	@mkdir -p $(@D)
	$(CC) -std=c11 $(WARN) -O2 $< -o $@

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)

# ---- what is done with it --------------------------------------------------------------------

# A fresh machine may type this first.
run:
	@tools/setup build
	@[ -x $(BUILD)/chimaera ] || echo '== building, which takes a minute or two'
	@$(MAKE) -s --no-print-directory all
	@PATH="$(abspath $(BUILD)):$$PATH" CHIMAERA=$(abspath $(BUILD))/chimaera tests/real/run-demo.sh

check:
	@tools/setup check
	@tests/check.sh $(PARTS)

# With a Docker engine, which is set up if there is none.
check-docker:
	@tools/with-engine tests/check.sh containers

# Without fio, the raw limit of files is a loop of our own.
bench:
	@tools/setup build
	@tools/setup bench || :
	@$(MAKE) -s --no-print-directory all
	@$(BUILD)/chimaera bench $(BENCH)

# All pairs of faults of the small run: a quarter of an hour or so.
corner:
	@$(MAKE) -s --no-print-directory tests
	@CORNER_STRIDE=1 CORNER_PROGRESS=1 $(BUILD)/test-sim corner_of

# Writes the figures and plots of docs/scale.md, which are committed.
scale: $(BUILD)/scale
	@tests/scale/run.sh $(BUILD)/scale docs/scale

san:
	@tests/check.sh address thread

tidy: build/tidy
	@{ ./amalgamate --list; \
	  find $(wildcard tests tools examples docker) -path tests/tidy/bad -prune -o \
	    -type f \( -name '*.[ch]' -o -name '*.sh' \) -print | sort; \
	  ls amalgamate tools/setup tools/base-image tools/with-engine run-distributed-test.sh .ci/run \
	    .ci/docker; } | build/tidy

# Bugs planted in copies of the core (MUTANTS=NAME...), and whether sweeps find them.
MUTANTS_BUILD = build/mutants
mutants:
	@$(MAKE) -s --no-print-directory AMALGAM=0 CFLAGS='-O1 -g' WERROR= BUILD=$(MUTANTS_BUILD) \
	  $(MUTANTS_BUILD)/sweep
	@tests/mutants/run.sh $(MUTANTS_BUILD) $(MUTANTS)

FUZZ_SECONDS ?= 600
fuzz:
	@FUZZ_SECONDS=$(FUZZ_SECONDS) tests/check.sh fuzz

amalgamation:
	./amalgamate

# What a program must link with beside libchimaera.a.
print-libraries:
	@echo $(LIBRARIES)

UNITS := $(if $(TOOL),chimaera.service chimaera-metrics.service)
SAMPLES := $(if $(TOOL),chimaera_default.yaml prometheus.yml chimaera_alerts.yml)
INSTALLED = $(includedir)/chimaera.h $(libdir)/libchimaera.a $(libdir)/libchimaera.so.0 \
  $(libdir)/libchimaera.so $(libdir)/pkgconfig/chimaera.pc \
  $(if $(TOOL),$(addprefix $(bindir)/,chimaera $(ALIASES))) \
  $(addprefix $(unitdir)/,$(UNITS)) $(addprefix $(datadir)/chimaera/,$(SAMPLES)) \
  $(if $(wildcard config/chimaera.conf),$(tmpfilesdir)/chimaera.conf) \
  $(if $(wildcard tools/completion.bash),$(completiondir)/chimaera)

install: all
	install -d $(sort $(dir $(addprefix $(DESTDIR),$(INSTALLED))))
	install -m 644 sources/chimaera.h $(DESTDIR)$(includedir)/
	install -m 644 $(BUILD)/libchimaera.a $(DESTDIR)$(libdir)/
	install -m 755 $(BUILD)/libchimaera.so.0 $(DESTDIR)$(libdir)/
	ln -sf libchimaera.so.0 $(DESTDIR)$(libdir)/libchimaera.so
	sed -e 's|@prefix@|$(prefix)|; s|@libdir@|$(libdir)|; s|@includedir@|$(includedir)|' \
	  -e 's|@version@|$(VERSION)|; s|@libs@|$(strip $(LIBRARIES))|' chimaera.pc.in \
	  >$(DESTDIR)$(libdir)/pkgconfig/chimaera.pc
ifneq ($(TOOL),)
	install -m 755 $(BUILD)/chimaera $(DESTDIR)$(bindir)/
	for name in $(ALIASES); do ln -sf chimaera $(DESTDIR)$(bindir)/$$name; done
	for name in $(UNITS); do \
	  sed 's|@bindir@|$(bindir)|' config/$$name >$(DESTDIR)$(unitdir)/$$name; done
	install -m 644 $(addprefix config/,$(SAMPLES)) $(DESTDIR)$(datadir)/chimaera/
endif
ifneq ($(wildcard config/chimaera.conf),)
	install -m 644 config/chimaera.conf $(DESTDIR)$(tmpfilesdir)/
endif
ifneq ($(wildcard tools/completion.bash),)
	install -m 644 tools/completion.bash $(DESTDIR)$(completiondir)/chimaera
endif

uninstall:
	rm -f $(addprefix $(DESTDIR),$(INSTALLED))
	rmdir $(DESTDIR)$(datadir)/chimaera 2>/dev/null || :

DIST := chimaera-$(VERSION)
dist:
	@mkdir -p build
	git ls-files -z | tar --null -T - --transform 's|^|$(DIST)/|' --sort=name --owner=0 --group=0 \
	  --numeric-owner -czf build/$(DIST).tar.gz
	@echo build/$(DIST).tar.gz

clean:
	rm -rf build

help:
	@echo 'make              the libraries and the program, in $(BUILD)'
	@echo 'make run          one real file through a daemon into a file-backed pool and back'
	@echo 'make check        everything that proves the rest (make check PARTS="tidy modular")'
	@echo 'make check-docker clusters of containers; sets up a Docker engine where there is none'
	@echo 'make bench        our figures beside the raw limits of this machine (BENCH=--json)'
	@echo 'make corner       every pair of faults at every moment of a small simulated run'
	@echo 'make scale        the figures and plots of docs/scale.md, by simulation (needs gnuplot)'
	@echo 'make san          the tests under address, undefined and thread sanitizers'
	@echo 'make mutants      bugs planted in copies of the core, and whether sweeps find them'
	@echo 'make tidy         the style test'
	@echo 'make fuzz         the fuzzers, FUZZ_SECONDS=600 each'
	@echo 'make amalgamation writes chimaera.c and chimaera.h, which are committed'
	@echo 'make install      to prefix=/usr/local, below DESTDIR; make uninstall takes it away'
	@echo 'make dist         a tarball of what is committed'
	@echo 'make clean        removes build/'
	@echo 'Variables: CC SAN AMALGAM OMIT INTERLEAVE HOSTILE CFLAGS WERROR; see the top of Makefile'

.PHONY: all tests real distributed interleave sweep fuzzers core run check check-docker bench corner scale san mutants tidy fuzz amalgamation \
  print-libraries install uninstall dist clean help
.SECONDARY:
.DELETE_ON_ERROR:
