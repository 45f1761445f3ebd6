# Each target is one line: cargo, or one script of hack/. As root on Debian they install what they lack.
PREFIX ?= /usr/local

.PHONY: help build run test race bench soak fuzz check install clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10

build: ## the release binary, static and stripped, in target/bin
	@hack/build.sh

run: ## a demonstration with a private containerd: what the shim does, shown step by step
	@hack/run.sh

test: ## unit tests, integration tests with containerd 1.6, 1.7, 2.1 and on cgroup v2, leak check
	@hack/test.sh

race: ## attackers swap links into the root while containers are created; RACE_SECONDS=60
	@RACE_SECONDS=$${RACE_SECONDS:-60} GUEST=no CONTAINERD_UNDER_TEST=1.7 hack/test.sh --nocapture race::

bench: ## our shim beside runc, crun and the floor: times, CPU, memory; ROUNDS=20 EXECS=0 GUEST=no
	@hack/bench.sh

soak: ## churn, long: SOAK_CONTAINERS=10000 SOAK_EXECS=100000 SOAK_ROUNDS=40, leaks and order checked
	@hack/soak.sh

fuzz: ## every fuzz target for FUZZ_SECONDS=600
	@hack/fuzz.sh

check: ## formatting and lints
	@cargo fmt --check && cargo clippy --locked --all-targets -- -D warnings

install: ## the binary into $(DESTDIR)$(PREFIX)/bin, where containerd's PATH finds it
	@install -D -m 755 "$$(hack/build.sh)" "$(DESTDIR)$(PREFIX)/bin/containerd-shim-myshim-v1"

clean: ## everything below target/
	@cargo clean
