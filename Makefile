# Everything runs from .venv, which `make install` fills from the pinned set in constraints.txt.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
BIN := .venv/bin

# `make` alone only installs.
.DEFAULT_GOAL := install

.PHONY: install demo test lint audit bench serve ui docs clean

demo: .venv/installed
	$(BIN)/hymirec demo

test: .venv/installed-dev
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadscope

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Known vulnerabilities of the pinned packages, as far as the advisory service can be reached.
audit: .venv-audit/installed
	.venv-audit/bin/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip --timeout 20

# The peers need another numpy, so they have an environment of their own. BENCH=--quick: in small.
bench: .venv/installed-dev .venv-peers/installed
	$(BIN)/python benchmarks/run.py --peer-python .venv-peers/bin/python $(BENCH)

serve: .venv/installed
	$(BIN)/hymirec serve

# MLflow's pages; `hymirec ui prefect` and `hymirec ui feast` are the others.
ui: .venv/installed
	$(BIN)/hymirec ui mlflow

# The pages that are written from the code.
docs: .venv/installed
	$(BIN)/python docs/generate.py
	$(BIN)/python benchmarks/run.py --table

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@echo "Installing into .venv: some minutes without a word, and about 2 GB ..."
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

.venv-peers/installed:
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip install --quiet --disable-pip-version-check 'rectools[torch]==0.19.0' \
	    'recbole==1.2.1' 'torch==2.13.0'
	touch $@

.venv-audit/installed:
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/pip install --quiet --disable-pip-version-check 'pip-audit==2.10.1'
	touch $@

clean:
	rm -rf .venv .venv-audit .venv-peers .hymirec
