# The template repository's own commands; a generated project has its own Makefile.
UV := $(shell command -v uv || echo .uv/bin/uv)
export PATH := $(PATH):$(abspath .uv/bin)
# each worker sets up the projects that its files of tests share
SPREAD := --numprocesses 2 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint format data docs freshen

help: ## list the commands
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup: .venv/ready ## install what the commands below need into .venv

.venv/ready: pyproject.toml | $(if $(filter .uv/bin/uv,$(UV)),.uv/bin/uv)
	@"$(UV)" sync --quiet || { \
	  "$(UV)" lock 2>&1 | grep -q 'missing an upload date' || exit 1; \
	  echo "This package index gives no upload times: resolving by the ranges of pyproject.toml alone."; \
	  "$(UV)" lock --quiet --no-config && "$(UV)" sync --quiet --no-config --frozen; }
	@touch $@

.uv/bin/uv:
	@echo "uv is not on this machine: installing it into .uv"
	@python3 -m venv .uv && .uv/bin/python -m pip install --quiet uv

demo: .venv/ready ## generate the highest level into build/demo, and live in it: set up, check, train, deploy, serve, drift, recover
	@"$(UV)" run --no-sync python scripts/demo.py

test: .venv/ready ## run the tests
	@"$(UV)" run --no-sync pytest $(SPREAD) -m "not thorough"

test-all: .venv/ready ## run the tests, and every combination of answers
	@"$(UV)" run --no-sync pytest $(SPREAD)

lint: .venv/ready ## check the template repository's own code
	@"$(UV)" run --no-sync ruff check
	@"$(UV)" run --no-sync ruff format --check
	@"$(UV)" run --no-sync mypy hooks scripts src tests

format: .venv/ready ## lay out the template repository's own code
	@"$(UV)" run --no-sync ruff check --fix
	@"$(UV)" run --no-sync ruff format

data: .venv/ready ## make the bundled data again from their source
	@"$(UV)" run --no-sync --with pip python scripts/make_data.py

docs: .venv/ready ## make cookiecutter.json and the pages of docs/reference from what they describe
	@"$(UV)" run --no-sync python scripts/make_questions.py
	@"$(UV)" run --no-sync python scripts/make_guards.py

freshen: .venv/ready ## try the newest versions of everything; move the day of the time capsule, or name what broke (LOOP=yes PROPOSE=yes)
	@UV="$(UV)" "$(UV)" run --no-sync python scripts/freshen.py $(if $(LOOP),--loop) $(if $(PROPOSE),--propose)
