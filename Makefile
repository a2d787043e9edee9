# Everything runs from a bare checkout: the first call makes .venv and installs the pinned requirements.
# Settings pass through: make run PORT=7005 VAR_DIR=/tmp/horde WORKER=0

PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$python" && break; done)
BIN := .venv/bin

.PHONY: run test lint bench screenshots clean

run: .venv/installed
	@$(BIN)/horde serve

test: lint
	$(BIN)/pytest -n 2

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/installed
	$(BIN)/python -m benchmarks

screenshots: .venv/installed-dev
	SCREENSHOTS=docs/screenshots $(BIN)/pytest -k screenshots tests/web

clean:
	rm -rf .venv *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.venv/installed: requirements.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed, with its venv module."; exit 1; }
	@echo "Installing what the server needs into .venv ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@
