# make demo    the main job: install what is missing, build, show users kept apart through one pooled server
# make test    everything CI runs: install what is missing, then all tests
# make bench   what the core costs, then pgbench against us, PgBouncer and PostgreSQL itself; ARGS=--full for all of it,
#              PGBOUNCER=… for another one than the system's
# make lint    formatting, clippy and documentation, warnings being errors
# make fuzz    each fuzz target for a while (FUZZ_SECONDS), with cargo-fuzz and a nightly toolchain
# make clean   stops the servers of the tests and forgets what was built; .tools stays

TOOLS_DIR ?= $(CURDIR)/.tools
FUZZ_SECONDS ?= 60
# Tests wait for servers more than they compute, so more of them run than there are processors.
TEST_THREADS ?= 4
# With it the tests also see that they fail where a rule is switched off: src/session/mutation.rs.
FEATURES := --features mutations

export TOOLS_DIR

MAKEFLAGS += --no-print-directory
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

.PHONY: demo test install build bench lint fuzz clean

install:
	@tests/setup.sh

build:
	@cargo build --release

demo:
	@tests/setup.sh demo
	@$(MAKE) build
	@"$$(cargo metadata --format-version 1 --no-deps | python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')/release/pgusher" demo $(ARGS)

# The servers that tests share are stopped here, and by their watchdog if this is killed. The runner's summary comes last.
test: install
	@trap 'tests/postgres.sh stop' EXIT; \
	if cargo nextest --version >/dev/null 2>&1; then \
	    cargo test $(FEATURES) --quiet --doc; \
	    cargo nextest run $(FEATURES) --no-fail-fast --test-threads $(TEST_THREADS) $(ARGS); \
	else \
	    cargo test $(FEATURES) --no-fail-fast $(ARGS) -- --test-threads $(TEST_THREADS); \
	fi

bench: install build
	@cargo bench --bench core
	@cargo bench --bench core -- --instructions
	@benches/pgbench/run.py $(ARGS)

lint:
	@cargo fmt --check
	@cargo clippy --all-targets --quiet -- -D warnings
	@RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --document-private-items --quiet

fuzz:
	@cargo fuzz --version >/dev/null || { echo 'make fuzz needs cargo-fuzz: cargo install cargo-fuzz' >&2; exit 1; }
	@for target in $$(cargo fuzz list --fuzz-dir tests/fuzz); do \
	    cargo +nightly fuzz run --fuzz-dir tests/fuzz "$$target" -- -max_total_time=$(FUZZ_SECONDS); \
	done

clean:
	@tests/postgres.sh stop
	@cargo clean
