# `make demo` shows the whole product, `make test` checks it; both install what they need into .venv first.
PYTHON ?= python3
BIN := .venv/bin
LOCK_HASH := $(shell cat requirements.lock bootstrap.lock pyproject.toml | cksum | cut -d' ' -f1)
INSTALLED := .venv/.installed-$(LOCK_HASH)
# uv reads its certificates and index from variables of its own; a machine set up for pip serves both.
export SSL_CERT_FILE ?= $(PIP_CERT)
export UV_INDEX_URL ?= $(PIP_INDEX_URL)
ifeq ($(strip $(SSL_CERT_FILE)),)
unexport SSL_CERT_FILE
endif
ifeq ($(strip $(UV_INDEX_URL)),)
unexport UV_INDEX_URL
endif

# The example uses the dbt package of this repository, which `dbt deps` puts where dbt looks for packages.
PACKAGE := dbt_packages/feature_warehouse
READY := $(INSTALLED) $(PACKAGE)/dbt_project.yml

CORE := $(addprefix tests/,client compiler definitions lint manifest meaning online publish serving sync training warehouse \
	windows scaffold/test_project.py)

.PHONY: help install demo up down test lint unit heavy lowest docs bench trials lock clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: $(READY) ## create .venv from the hashed lock

$(INSTALLED):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; set PYTHON=")'
	@echo "installing into .venv (once; from the hashed lock)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r bootstrap.lock
	@$(BIN)/uv pip sync --quiet --compile-bytecode --require-hashes --python $(BIN)/python requirements.lock \
		|| $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/uv pip install --quiet --no-deps --no-build-isolation --python $(BIN)/python --editable .
	@$(BIN)/python -m compileall -q feature_server
	@touch $@

$(PACKAGE)/dbt_project.yml: | $(INSTALLED)
	@$(BIN)/dbt --quiet deps --profiles-dir profiles

demo: $(READY) ## build, publish, sync, serve, train and document the example, then say what happened
	@$(BIN)/python -m scripts.demo

up: $(READY) ## load the example if it is not yet, start Airflow, the feature server and the docs site
	@$(BIN)/python -m scripts.up

down: $(READY) ## end what `make up` started
	@$(BIN)/python -m scripts.down

test: lint unit ## linters, types, and every test but the heavy ones

lint: $(READY) ## ruff, mypy, sqlfluff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/sqlfluff lint models macros

unit: $(READY) ## pytest
	@sh scripts/install_browser.sh
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not heavy"

heavy: $(READY) ## the long tests: demo, make up, README, refreshes, many views, benchmarks
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m heavy

lowest: $(READY) ## the core of the tests with the lowest versions, in an environment of its own
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-lowest
	@$(BIN)/uv pip sync --quiet --require-hashes --python .venv-lowest/bin/python lowest.lock
	@$(BIN)/uv pip install --quiet --no-deps --no-build-isolation --python .venv-lowest/bin/python --editable .
	PATH="$(CURDIR)/.venv-lowest/bin:$$PATH" .venv-lowest/bin/python -m pytest -n 2 --dist loadfile -m "not heavy" $(CORE)

docs: $(READY) ## the dbt docs site as one file
	@$(BIN)/features docs

bench: $(READY) ## measure against the physical limit and against Feast
	@$(BIN)/python -m benchmarks.run

trials: $(READY) ## try to break the product, a few rounds of each trial: soak, kill, full_disk, damage, evict
	@status=0; for name in soak kill full_disk damage evict; do \
		$(BIN)/python -m trials.$$name || status=1; done; exit $$status

lock: $(INSTALLED) ## resolve the locks again from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --no-annotate \
		--python-version 3.11 --extra dev pyproject.toml --output-file requirements.lock
	grep -E '^uv==[0-9.]+' -o requirements.lock | $(BIN)/uv pip compile --quiet --universal --generate-hashes \
		--no-emit-index-url --no-header --no-annotate - --output-file bootstrap.lock
	rm -f lowest.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --no-annotate \
		--resolution lowest-direct --only-binary :all: --no-emit-build-options \
		--python-version 3.11 --extra airflow pyproject.toml tests/lowest.in --output-file lowest.lock

clean: ## remove what was built (not .venv)
	rm -rf .features target logs .pytest_cache .mypy_cache .ruff_cache .hypothesis
