# The commands of this project. Each sets up what it needs: a Rust toolchain (rustup.rs) and a C compiler are all that must be
# there before.

CARGO ?= cargo

.PHONY: help demo test soak fuzz bench simulate plan micro profile run threads lint fixtures

help:
	@echo 'make demo      build, start a private Redis and a server with signed repos, backfill them, show the events'
	@echo 'make test      all tests, against a private Redis'
	@echo 'make soak      kill instances and check what comes out, for SOAK_SECONDS (600), from SOAK_SEED (random) on'
	@echo 'make fuzz      mutants of repos for FUZZ_SECONDS (300) or FUZZ_MUTANTS, from FUZZ_SEED (random) on; FUZZ_ONLY: one of them'
	@echo 'make bench     what the release binary costs, against the floor; BENCH_SETS=100k,small: these sets, BENCH_BIN: another binary'
	@echo 'make simulate  the whole network in small: 300 hosts, 20,000 repos, two instances; SIMULATE_ONLY=scarce: one of its runs'
	@echo 'make plan      what REPOS (45000000) would take, from what was measured here and what hosts allow; each figure is a variable'
	@echo 'make micro     what each stage of a repo costs alone; MICRO=prove: this stage'
	@echo 'make profile   instructions per record and where they go, in target/profile; PROFILE_SET=10k: another set'
	@echo 'make run       the release binary against REDIS_URL (or a private Redis whose data stays in .run/)'
	@echo 'make threads   names and stacks of the threads of a running backfiller, by gdb; PID=123: of this one'
	@echo 'make lint      rustfmt, clippy and rustdoc, with warnings denied'
	@echo 'make fixtures  make tests/fixtures again with the official TypeScript packages (needs Node.js)'

demo:
	@tests/support/ensure-redis.sh >/dev/null
	$(CARGO) build --locked --release --bin backfiller --example demo
	@target/release/examples/demo

test:
	@tests/support/ensure-redis.sh >/dev/null
	@tests/support/ensure-chromium.sh >/dev/null || true
	$(CARGO) test --locked

soak:
	@tests/support/ensure-redis.sh >/dev/null
	$(CARGO) test --locked --test crash -- --ignored --exact soak --nocapture

fuzz: export FUZZ_SEED := $(or $(FUZZ_SEED),random)
fuzz: export FUZZ_SECONDS := $(or $(FUZZ_SECONDS),$(if $(FUZZ_MUTANTS)$(FUZZ_ONLY),,300))
fuzz:
	@tests/support/ensure-redis.sh >/dev/null
	$(CARGO) test --locked --test mutations -- --nocapture

bench:
	@tests/support/ensure-redis.sh >/dev/null
	$(CARGO) bench --locked --bench backfill

simulate:
	@tests/support/ensure-redis.sh >/dev/null
	$(CARGO) bench --locked --bench simulate

plan:
	@tests/support/ensure-redis.sh >/dev/null
	$(CARGO) bench --locked --bench backfill -- plan

micro:
	$(CARGO) bench --locked --bench micro -- $(MICRO)

profile:
	@tests/support/ensure-redis.sh >/dev/null
	@tests/support/ensure-valgrind.sh >/dev/null
	$(CARGO) bench --locked --bench backfill -- profile

run:
	$(CARGO) build --locked --release --bin backfiller
	@tests/support/run.sh target/release/backfiller

threads:
	@PID=$(PID) tests/support/threads.sh

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps

fixtures:
	cd tests/fixtures/generate && npm ci && node generate.mjs
