# Two commands do everything on a Debian machine with a Rust toolchain: `make up` and `make test`.

CARGO ?= cargo
BOWLINE = target/quick/bowline
# What is compiled in for tests alone, see crates/fault-points.
SHIPPED = scripts/shipped

.PHONY: up build release test check setup bench fuzz hostile-peers conformance attack sim upgrades show reference fmt

## up: build Bowline, run examples/uploads, print where to look (Ctrl-C stops it; what was uploaded stays)
up: build
	$(BOWLINE) up examples/uploads

## build: an optimised binary without the long link-time optimisation of a release
build:
	$(CARGO) build --locked --profile quick -p bowline
	@$(SHIPPED) $(BOWLINE)

## release: the binary that is shipped
release:
	$(CARGO) build --locked --release -p bowline
	@$(SHIPPED) target/release/bowline

## setup: install what checks and tests need (asks apt, pip and cargo; does nothing where all is there)
setup:
	scripts/setup

## test: install what the tests need and run all of them, one more at a time than there are cores: they wait as much as they work
test: setup
	$(CARGO) build --locked -p bowline
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-$$(($$(nproc) + 1))} $(CARGO) test --locked --workspace
	$(MAKE) -C console unit
	S3_SERVER="$${CARGO_TARGET_DIR:-$(CURDIR)/target}/hostile-tools/bin/versitygw" $(MAKE) -C examples/uploads unit integration e2e bucket
	$(MAKE) -C examples/timestamps unit integration e2e
	$(MAKE) -C examples/users unit integration e2e
	$(MAKE) -C examples/hello unit integration e2e
	$(MAKE) -C examples/board unit integration e2e

## check: format, lints, licences and sources of dependencies, structure
check: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) deny --locked check bans licenses sources
	$(CARGO) run --locked -q -p xtask -- tidy
	$(MAKE) -C console lint
	$(MAKE) -C examples/uploads lint
	$(MAKE) -C examples/timestamps lint
	$(MAKE) -C examples/users lint
	$(MAKE) -C examples/hello lint
	$(MAKE) -C examples/board lint

## bench: figures, beside the peers in the same run; results in bench/
bench:
	bench/run

## fuzz: every fuzz target for a bounded time (FUZZ_SECONDS each), from the corpus that is kept and what earlier runs have found
FUZZ_SECONDS ?= 30
fuzz:
	scripts/fuzz $(FUZZ_SECONDS)

## hostile-peers: tests/hostile against other proxies beside the edge; writes docs/reference/hostile.md
hostile-peers:
	scripts/hostile-peers

## conformance: every edge is asked the same, case by case; writes docs/reference/conformance.md
conformance:
	$(CARGO) build --locked -p bowline
	BOWLINE_RENEW=1 $(CARGO) test --locked -p bowline-tests --test e2e conformance:: -- --test-threads=1

## attack: killed at every step of a release, each alone, then processes at random for ten minutes, another seed each time (printed; BOWLINE_ATTACK_SEED=N replays it)
attack:
	$(CARGO) build --locked -p bowline
	BOWLINE_POINTS=alone $(CARGO) test --locked -p bowline-tests --test e2e points:: -- --nocapture
	BOWLINE_ATTACK_SECONDS=$${BOWLINE_ATTACK_SECONDS:-600} BOWLINE_ATTACK_SEED=$${BOWLINE_ATTACK_SEED:-$$(date +%s)} \
	  $(CARGO) test --locked -p bowline-tests --test e2e whatever_is_killed -- --nocapture

## upgrades: daemon and edge swapped a hundred times under load, no request lost (BOWLINE_UPGRADES=N for another number)
upgrades:
	$(CARGO) build --locked -p bowline
	BOWLINE_UPGRADES=$${BOWLINE_UPGRADES:-100} $(CARGO) test --locked -p bowline-tests --test e2e swapped_again -- --nocapture

## show: releases, rollbacks and a hundred upgrades under 2,000 requests a second: none may be lost (bench/results/show.md)
show: build
	BOWLINE_BIN=$(BOWLINE) bench/run show

## sim: the node of crates/core/tests/sim over SEEDS seeds; a failure prints the seed that repeats it
SEEDS ?= 20000
sim:
	BOWLINE_SIM_SEEDS=$(SEEDS) $(CARGO) test --locked --release -p bowline-core --test sim

## reference: write the generated pages of docs/reference anew
reference:
	$(CARGO) run --locked -q -p xtask -- reference
	BOWLINE_RENEW=1 $(CARGO) test --locked -q -p bowline -p bowline-api -p bowline-control reference

fmt:
	$(CARGO) fmt --all
