# Needs Python 3.11 or later with venv and pip, and nothing else. `make` lists what there is.

PYTHON ?= python3
BIN := .venv/bin
RUN := .venv/run-installed
DEV := .venv/dev-installed
CLIENTS := build/prefect-newest/installed build/prefect-oldest/installed
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
COMPILE := build/lock/bin/pip-compile --quiet --no-config --generate-hashes --strip-extras \
	--allow-unsafe --no-emit-options --no-header --upgrade

.DEFAULT_GOAL := help
.PHONY: help demo serve test clients check lint format bench soak lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(RUN) ## See an event trigger a deployment, here and now
	$(BIN)/upshot demo

serve: $(RUN) ## Run the server, with a Postgres of its own unless UPSHOT_DATABASE_URL names one
	$(BIN)/upshot serve

# What is started again and again should not be compiled as often, whatever the environment says.
test: export PYTHONDONTWRITEBYTECODE =
test: $(DEV) clients ## Run the tests
	$(BIN)/pytest --numprocesses auto --dist worksteal

check: lint test ## All that a change must pass

lint: $(DEV) ## Check format, style, types and the direction of imports
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(DEV) ## Write the code as `make check` wants it
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: $(DEV) ## Measure the figures of the README on this machine
	$(BIN)/python -m benchmarks

soak: $(DEV) ## Kill the server again and again under load, and count what was lost
	$(BIN)/python -m tests.soak

lock: ## Write requirements/*.txt anew, with the newest versions that pyproject.toml allows
	$(PYTHON) -m venv --clear build/lock
	build/lock/bin/python -m pip --disable-pip-version-check install --quiet pip-tools
	$(COMPILE) --extra server --extra embedded -o requirements/dev.txt pyproject.toml requirements/dev.in
	$(COMPILE) --extra server --extra embedded -c requirements/dev.txt -o requirements/run.txt pyproject.toml
	$(COMPILE) --extra server -c requirements/dev.txt -o requirements/server.txt pyproject.toml
	$(COMPILE) --all-build-deps --only-build-deps -c requirements/dev.txt -o requirements/build.txt pyproject.toml
	$(COMPILE) -o requirements/prefect-newest.txt requirements/prefect-newest.in
	$(COMPILE) -o requirements/prefect-oldest.txt requirements/prefect-oldest.in

clean: ## Remove everything that was made here; data directories stay
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is newer than the locks it was installed from. A broken .venv is made anew.
$(RUN): requirements/run.txt requirements/build.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo >&2 \
		"Upshot needs Python 3.11 or later, and '$(PYTHON)' is none. Name one: make PYTHON=python3.12"; exit 1; }
	@$(PIP) --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(PIP) install --quiet --require-hashes -r requirements/run.txt -r requirements/build.txt
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV): requirements/dev.txt $(RUN)
	$(PIP) install --quiet --require-hashes -r requirements/dev.txt
	@touch $@

# Prefect's own clients, for the tests: each in an environment of its own, both made at once.
clients: $(RUN)
	@$(MAKE) --no-print-directory --jobs 2 $(CLIENTS)

build/prefect-%/installed: requirements/prefect-%.txt | $(RUN)
	$(PYTHON) -m venv --clear --without-pip $(@D)
	$(PIP) --python $(@D)/bin/python install --quiet --no-deps --no-compile --require-hashes -r $<
	@touch $@
