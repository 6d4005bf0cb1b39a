# Every target makes its own .venv from the locked, hashed requirements: nothing else needs installing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test faults bench audit torture check lock clean
.DEFAULT_GOAL := test

# Compiled where there is a compiler and Python's headers; a change of any of them compiles it again.
TYPES := $(wildcard replicator/*.pxd replicator/*/*.pxd)
COMPILED := $(TYPES:.pxd=.py)
# pip writes the bytecode of what it installs, but not of an editable package: a fifth of each start
# where PYTHONDONTWRITEBYTECODE is set or the folder is another user's.
PACKAGES := replicator bootstrap monitoring

$(VENV)/.installed: requirements.lock pyproject.toml $(TYPES) $(COMPILED)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	PYTHONWARNINGS=ignore $(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	$(BIN)/python -m compileall -q $(PACKAGES)
	touch $@

demo: $(VENV)/.installed
	$(BIN)/replicator demo $(DEMO_OPTIONS)

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist worksteal $(PYTEST_OPTIONS)

RESULTS := docs/performance
MEASURE := $(BIN)/python -m tests.benchmarks

# Beside native replication, pg_recvlogical and pg_dump, on one machine, which should have nothing else to do: two hours
# with the defaults. Writes docs/performance.md.
bench: $(VENV)/.installed
	$(MEASURE).catchup --json $(RESULTS)/catchup.json $(BENCH_OPTIONS)
	$(MEASURE).latency --json $(RESULTS)/latency.json $(BENCH_OPTIONS)
	$(MEASURE).growth --json $(RESULTS)/growth.json $(BENCH_OPTIONS)
	$(MEASURE).snapshot --json $(RESULTS)/snapshot.json $(BENCH_OPTIONS)
	$(MEASURE).memory --json $(RESULTS)/memory.json $(BENCH_OPTIONS)
	$(MEASURE).page

# Known weaknesses of the locked requirements; says so where it cannot ask.
audit: $(VENV)/.installed
	$(BIN)/python -m tests.audit

# Every fault, the long ones too; writes docs/reliability.md.
faults: $(VENV)/.installed
	$(BIN)/python -m pytest tests/faults -m "long or not long" --reliability docs/reliability.md $(PYTEST_OPTIONS)

# 200 invented schemas with their transactions, from another seed each time; TORTURE_OPTIONS="--seed S" plays one again.
torture: $(VENV)/.installed
	$(BIN)/python -m tests.torture $(TORTURE_OPTIONS)

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

COMPILE := $(BIN)/pip-compile --quiet --strip-extras --allow-unsafe --generate-hashes --all-build-deps \
  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options --no-header

# requirements.lock is everything; requirements-runtime.lock is what the image needs, at the same versions.
lock: $(VENV)/.installed
	$(COMPILE) --all-extras --output-file requirements.lock pyproject.toml
	$(COMPILE) --constraint requirements.lock --output-file requirements-runtime.lock pyproject.toml

clean:
	rm -f $(COMPILED:.py=.c) $(COMPILED:.py=.*.so)
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
