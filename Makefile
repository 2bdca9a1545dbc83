# Everything sets itself up: python3 (3.11 or newer, with venv), make and gcc are all that must be there.
# (Python's headers and the servers that tests need are installed by scripts/install-servers.)

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LOCK := requirements/dev.lock
# What the benchmarks compare with, in an environment of its own.
PEERS := .venv-peers
# The proxies of the examples that Debian does not have.
PROXIES := .venv-proxies
# What users of a compiled wheel get: found first by what runs with PYTHONPATH=$(COMPILED).
COMPILED := build/compiled
# Debian builds its Python with profile-guided optimisation, which makes the guard a third faster.
PYTHON ?= $(shell scripts/find-python)

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint compiled bench goodput soak docs lock clean

help:  ## Say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## Make the virtual environment, from the lock

$(READY): pyproject.toml $(LOCK) scripts/find-python
	@test -n "$(PYTHON)" || { echo "Corral needs Python 3.11 or newer with venv: apt-get install python3 python3-venv" >&2; exit 1; }
	"$(PYTHON)" -m venv --clear $(VENV)
	@# The lock is whole, so nothing is resolved: older pips look past it for "coverage[toml]" and find a newer release.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $(LOCK)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@$(BIN)/python -m pip check --quiet --disable-pip-version-check
	@touch $(READY)

demo: $(READY)  ## Scan a real llama-server bare, guard it, and scan it again
	$(BIN)/corral demo

test: $(READY) lint compiled $(PROXIES)/.ready  ## Run every check and every test
	$(BIN)/python -m pytest -n 2 --cov --cov-report= -q
	@$(BIN)/python -m coverage report --include='src/corral/engine/*,src/corral/policy/*' --fail-under=95 > coverage.txt \
	  || { cat coverage.txt; exit 1; }
	@awk '/^TOTAL/ {print "coverage of engine and policy: " $$NF}' coverage.txt

	@echo "the same again, compiled"
	PYTHONPATH=$(CURDIR)/$(COMPILED) $(BIN)/python -m pytest -n 2 -q tests/engine tests/guard tests/stores tests/e2e

compiled: $(COMPILED)/.ready  ## Compile the hot modules, as a wheel for this platform has them

$(COMPILED)/.ready: $(READY) hatch_build.py $(shell find src -name '*.py')
	scripts/install-servers test
	rm -rf build
	CORRAL_COMPILE=1 $(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-build-isolation --no-deps --wheel-dir build/wheel .
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(COMPILED) build/wheel/*.whl
	@touch $@

lint: $(READY)  ## Check style, types and the direction of imports
	$(BIN)/ruff check --quiet src tests benchmarks examples scripts
	$(BIN)/ruff format --quiet --check src tests benchmarks examples scripts
	$(BIN)/mypy --no-error-summary src
	$(BIN)/lint-imports --no-logo > imports.txt || { cat imports.txt; exit 1; }

bench: $(READY) compiled $(PEERS)/.ready  ## Measure beside nginx, Envoy, LiteLLM and slowapi, and beside a flood
	scripts/install-servers bench
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.goodput --check

$(PROXIES)/.ready: requirements/proxies.lock scripts/find-python
	"$(PYTHON)" -m venv --clear $(PROXIES)
	$(PROXIES)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/proxies.lock
	@touch $@

$(PEERS)/.ready: requirements/peers.lock scripts/find-python
	"$(PYTHON)" -m venv --clear $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/peers.lock
	@touch $@

goodput: $(READY) compiled  ## Measure what honest clients get beside a flood, with and without Corral and its peers
	scripts/install-servers bench
	$(BIN)/python -m benchmarks.goodput

soak: $(READY) compiled  ## Let honest and hostile clients at the guard for two minutes, and see whether it stays as it was
	$(BIN)/python -m benchmarks.soak --minutes 2

docs: $(READY)  ## Write the page of settings, and build the site
	$(BIN)/python -c 'from corral.policy.reference import reference; print(reference(), end="")' > docs/settings.md
	$(BIN)/zensical build --clean

lock: $(READY)  ## Renew the lock
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --no-annotate --custom-compile-command "make lock" --extra demo --extra jwt --extra otel --group dev \
	  --output-file $(LOCK) pyproject.toml
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --no-annotate --custom-compile-command "make lock" \
	  --output-file requirements/peers.lock requirements/peers.in
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --no-annotate --custom-compile-command "make lock" \
	  --output-file requirements/proxies.lock requirements/proxies.in

clean:  ## Remove what was made
	rm -rf $(VENV) $(PEERS) $(PROXIES) site build dist coverage.txt imports.txt .coverage* .import_linter_cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
