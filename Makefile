# nstool: `make` lists the targets. PYTHON= chooses the interpreter of .venv, ARGS= goes to the program that a target runs.

PYTHON       ?= python3
ARGS         ?=
JOBS         ?= $(shell nproc)
FUZZ_SECONDS ?= 60
KERNELS      ?= 6.1 6.12
VM_FULL      ?=

BIN     := .venv/bin
SERVICE := examples/web_service.py
BENCH   := benchmarks/run.py

# Debian's names. Building stops when one of the first list is missing; without those of the second and third, something
# cannot be run or tested, and the tests say what.
BUILD_PACKAGES := gcc libc6-dev libcap-dev libseccomp2
USE_PACKAGES   := nftables uidmap iproute2 strace busybox-static shellcheck graphviz libcap2-bin
FUZZ_PACKAGES  := clang libclang-rt-dev
TEST_PACKAGES  := $(FUZZ_PACKAGES) chromium
# Programs of examples/services and examples/serve; they are installed so that none of them is started, now or at boot.
SERVICE_PACKAGES := curl nginx redis-server redis-tools nodejs git openssh-server openssh-client
LINT_PACKAGES  := clang-format
VAGRANT_PACKAGES := vagrant vagrant-libvirt libvirt-daemon-system libvirt-clients dnsmasq-base iptables \
	qemu-system-x86 qemu-utils mmdebstrap fdisk e2fsprogs rsync openssh-client
VM_PACKAGES    := qemu-system-x86 busybox-static kmod xz-utils e2fsprogs apparmor secilc
ifneq ($(filter /usr/bin/% /bin/%,$(shell command -v $(PYTHON) 2>/dev/null)),)
BUILD_PACKAGES += python3-venv python3-dev
endif

# nsexec has no libc under it: no thread-local storage for a stack protector, no memcpy but ours.
CC             := gcc
C_WARNINGS     := -Wall -Wextra -Wmissing-prototypes
PYTHON_H        = -isystem $(shell $(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))')
NSEXEC_SOURCES := csrc/nsexec.c csrc/plan.c csrc/launch.c csrc/init.c csrc/answer.c csrc/supervise.c csrc/letter.c \
	csrc/proxy.c csrc/freestanding.c $(wildcard csrc/serve/*.c)
NSEXEC_FLAGS   := -std=gnu11 -O2 $(C_WARNINGS) -static -nostdlib -ffreestanding -fno-stack-protector \
	-fcf-protection=none -fno-asynchronous-unwind-tables -fno-tree-loop-distribute-patterns -fno-pie -no-pie \
	-Wl,--gc-sections -Wl,--build-id=none -Wl,-z,noexecstack -ffunction-sections -s
C_HEADERS      := $(wildcard csrc/*.h csrc/serve/*.h)
C_SOURCES      := $(wildcard csrc/*.c csrc/serve/*.c)
NATIVE         := nstool/_native.abi3.so

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help build run test test-unit test-vm vagrant-test bench lint format docs fuzz clean packages

help:
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: .venv/.installed $(NATIVE) $(BIN)/nsexec ## Set up everything: packages, .venv, the compiled module, nsexec.

run: build ## Start the example service in a sandbox, show what isolates it, stop it.
	@$(BIN)/python $(SERVICE) $(ARGS)

test: build .venv/.test-packages ## Run all the tests that this machine can, then say what was skipped and why.
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup -q $(ARGS)

test-unit: ## Run the tests that need neither build nor root.
	@$(or $(wildcard $(BIN)/python),$(PYTHON)) -m pytest -q tests/unit $(ARGS)

test-vm: build .venv/.vm-packages ## Run the tests marked for it under KERNELS="6.1 6.12" in QEMU; VM_FULL=1: all of the kernel's.
	@$(BIN)/python tests/vm/run.py --kernels "$(KERNELS)" $(if $(filter 1,$(VM_FULL)),--full) $(ARGS)

vagrant-test: build .venv/.vagrant-packages ## The same in Vagrant machines with a real systemd: up, TEST (make test), scenarios, destroy.
	@vagrant/test $(KERNELS)

bench: build ## Measure launches beside the floor and other tools.
	@$(BIN)/python $(BENCH) $(ARGS)

lint: build .venv/.lint-packages ## Check style, types and C warnings; change nothing.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	clang-format --dry-run -Werror $(C_SOURCES) $(C_HEADERS)
	@set -e; for source in $(C_SOURCES); do \
		echo "gcc -fanalyzer $$source"; \
		$(CC) -std=gnu11 -O2 $(C_WARNINGS) -Werror -fanalyzer $(PYTHON_H) -c -o /dev/null $$source; \
	done

format: build .venv/.lint-packages ## Rewrite Python and C in the project's style.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	clang-format -i $(C_SOURCES) $(C_HEADERS)

docs: build ## Make the generated files again: JSON Schema, seccomp filter, reference, man pages, picture.
	@mkdir -p build
	$(BIN)/python -m nstool.spec.schema > build/schema.json
	mv build/schema.json nstool/spec/schema.json
	$(BIN)/python -m nstool.security.seccomp --write
	$(BIN)/python -m nstool.plan.hints > build/errors.md
	mv build/errors.md docs/errors.md
	PYTHONPATH=. $(BIN)/python docs/make_spec.py > build/spec.md
	mv build/spec.md docs/spec.md
	PYTHONPATH=. $(BIN)/python docs/make_cli.py > build/cli.md
	mv build/cli.md docs/cli.md
	PYTHONPATH=. $(BIN)/python docs/make_json.py > build/json.md
	mv build/json.md docs/json.md
	PYTHONPATH=. $(BIN)/python docs/make_adversary.py > build/adversary.md
	mv build/adversary.md docs/adversary.md
	PYTHONPATH=. $(BIN)/python docs/make_man.py
	if command -v mandoc > /dev/null; then mandoc -T lint docs/man/*; fi
	if command -v dot > /dev/null; then dot -Tsvg docs/architecture.dot -o docs/architecture.svg; fi

fuzz: build .venv/.fuzz-packages ## Fuzz the plan decoder for FUZZ_SECONDS=60 under ASan and UBSan.
	tests/fuzz/run.sh $(FUZZ_SECONDS) $(ARGS)

clean: ## Remove all that make has made.
	rm -rf .venv build dist *.egg-info nstool/nsexec nstool/_native.* .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Installed once, and again when the lists of dependencies change.
.venv/.installed: pyproject.toml setup.py scripts/packages scripts/venv
	@scripts/packages --need $(BUILD_PACKAGES)
	@scripts/packages $(USE_PACKAGES)
	@scripts/venv $(PYTHON)
	@touch $@

.venv/.fuzz-packages: scripts/packages | .venv/.installed
	@scripts/packages $(FUZZ_PACKAGES)
	@touch $@

packages: # for vagrant/box: what a machine needs for all but clang and chromium
	@echo $(BUILD_PACKAGES) $(USE_PACKAGES) $(SERVICE_PACKAGES)

.venv/.test-packages: scripts/packages | .venv/.installed
	@scripts/packages $(TEST_PACKAGES)
	@scripts/packages --idle $(SERVICE_PACKAGES)
	@touch $@

.venv/.vm-packages: scripts/packages | .venv/.installed
	@scripts/packages --need $(VM_PACKAGES)
	@touch $@

.venv/.vagrant-packages: scripts/packages | .venv/.installed
	@scripts/packages --need $(VAGRANT_PACKAGES)
	@touch $@

.venv/.lint-packages: scripts/packages | .venv/.installed
	@scripts/packages --need $(LINT_PACKAGES)
	@touch $@

$(NATIVE): csrc/build.py $(wildcard csrc/*.cdef) csrc/syscalls.c csrc/plan.c csrc/launch.c csrc/copy.c csrc/interpreter.c csrc/letter.c csrc/proxy.c $(C_HEADERS) | .venv/.installed
	@echo "compiling $@"
	@$(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@

nstool/nsexec: $(NSEXEC_SOURCES) $(C_HEADERS)
	@echo "compiling $@"
	@$(CC) $(NSEXEC_FLAGS) -o $@ $(NSEXEC_SOURCES)

$(BIN)/nsexec: nstool/nsexec | .venv/.installed
	@ln -sf ../../nstool/nsexec $@
