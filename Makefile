# Everything happens inside this folder: .venv, .cache, .airflow, music. Nothing needs root.
.DEFAULT_GOAL := help
SHELL := /bin/sh
# The first Python that runs here and is new enough; a name alone may be an empty shim.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PORT ?= 8080
PURCHASES ?= 300
BENCHMARKS := waiting_requests throttle paying_twice poller_load triggerer_process triggerer_kill \
	prompt_tables download table_rows table_ways tracks_page webhooks
PY := .venv/bin/python
CODE := plugins include dags tests benchmarks

# Without byte code Airflow starts three times slower.
unexport PYTHONDONTWRITEBYTECODE
# A project environment that is active elsewhere must not be changed.
unexport VIRTUAL_ENV
export UV_CACHE_DIR ?= $(CURDIR)/.cache/uv
export UV_PYTHON_DOWNLOADS := never
export UV_PROJECT_ENVIRONMENT := $(CURDIR)/.venv
export AIRFLOW_HOME := $(CURDIR)/.airflow

.PHONY: help demo up test e2e torture bench fmt lint type clean cluster test-cluster

help: ## list the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: .venv/ready ## songs from a prompt table, through a real Airflow, without a key (REAL=1: MUSICAPI_KEY pays)
	@$(PY) -m include.local.demo $(if $(REAL),--real)

up: .venv/ready ## Airflow with its UI on 127.0.0.1:$(PORT), simulator and connection ready; Ctrl-C ends it
	@$(PY) -m include.local.up --port $(PORT)

test: .venv/ready ## all tests
	$(PY) -m pytest --cov --cov-report=term $(ARGS)

e2e: .venv/ready ## Airflow's UI in a real browser, chromium (SCREENSHOTS=1: also new pictures for the docs)
	SCREENSHOTS=$(SCREENSHOTS) $(PY) -m pytest -m browser tests/browser $(ARGS)

cluster: .venv/cluster ## docker-compose.yaml without Docker: Postgres, Redis, S3, workers, triggerers; Ctrl-C ends it
	@$(PY) -m include.cluster

test-cluster: .venv/cluster ## the prompt-table DAGs on Celery, and faults in the middle of them
	$(PY) -m pytest -m cluster tests/cluster $(ARGS)

torture: .venv/ready ## real Airflow, SIGKILL, a misbehaving API: is a song paid twice or lost? (PURCHASES=300 SEED=)
	@$(PY) -m tests.e2e.torture --purchases $(PURCHASES) $(if $(SEED),--seed $(SEED))

# One after the other: they measure CPU time, and three of them start a whole Airflow.
bench: .venv/ready ## all figures, beside the vendor's SDK and the http provider (about 40 minutes; ONLY=name for one)
	@for name in $(or $(ONLY),$(BENCHMARKS)); do echo "benchmarks.$$name"; $(PY) -m benchmarks.$$name || exit 1; done

fmt: .venv/ready ## format the code
	$(PY) -m ruff format $(CODE)
	$(PY) -m ruff check --fix $(CODE)

lint: .venv/ready ## check style, layers and lock file
	$(PY) -m ruff format --check $(CODE)
	$(PY) -m ruff check $(CODE)
	PYTHONPATH=. .venv/bin/lint-imports --no-logo
	$$(cat .venv/ready) lock --check --quiet

type: .venv/ready ## check types
	$(PY) -m mypy

clean: ## remove everything that make made, but not your music
	rm -rf .venv .cache .airflow .airflow.lock .cluster dist .pytest_cache .mypy_cache .ruff_cache .coverage* .hypothesis
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

# The file holds the path of the uv that made the environment.
.venv/ready: pyproject.toml uv.lock
	@test -n "$(PYTHON)" || { echo "This needs Python 3.11 or later; set PYTHON=/path/to/python3." >&2; exit 1; }
	@uv=$$($(PYTHON) include/local/get_uv.py .cache/uv-program) && \
	 echo "Installing the locked dependencies into .venv ..." >&2 && \
	 "$$uv" sync --locked --quiet --compile-bytecode --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" && \
	 echo "$$uv" > $@

# What the images of docker-compose.yaml have and the other targets do not need.
.venv/cluster: .venv/ready
	@"$$(cat .venv/ready)" sync --locked --quiet --inexact --group cluster --compile-bytecode && touch $@
