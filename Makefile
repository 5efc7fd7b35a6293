# Each target sets up what it needs; nothing is installed outside this folder.
# Stamps lie in the virtual environment, so removing it starts afresh.

PYTHON ?= python3.11
BIN := .venv/bin
STAMPS := .venv/stamps
NATIVE := python/atlas/_native.abi3.so
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
RUST := Cargo.toml Cargo.lock pyproject.toml $(shell find crates -name '*.rs' -o -name Cargo.toml)
SUITES := $(wildcard tests/unit tests/semantics tests/local tests/faults)

# One interpreter for every cargo command, so that they share their results.
export PYO3_PYTHON := $(CURDIR)/$(BIN)/python

.DELETE_ON_ERROR:
.PHONY: help build demo test check bench bench-scale lint types unit clean

help:
	@echo 'make build   leave .venv/bin/atlasctl'
	@echo 'make demo    read real speech behind a slow origin three ways (DATA=/any/folder)'
	@echo 'make test    pass all tests'
	@echo 'make check   lint, types and unit tests: before each commit'
	@echo 'make lint    formatting, lints and layers alone'
	@echo 'make bench   measure against a plain folder and cp; writes bench.json'
	@echo 'make bench-scale   images of many files and many segments (FILES=10000000)'
	@echo 'make clean   remove what the other targets made'

build: $(NATIVE)

# Made once: a change of the script is no reason to take it from under who uses it.
$(STAMPS)/venv:
	@command -v cargo >/dev/null || { echo 'error: cargo not found: install Rust 1.95 or newer' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'error: $(PYTHON) is not Python 3.11 or newer: make PYTHON=/path' >&2; exit 1; }
	$(PYTHON) tools/make_venv.py .venv
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/base: $(STAMPS)/venv requirements/build.txt requirements/base.txt
	$(PIP) install --require-hashes -r requirements/build.txt -r requirements/base.txt
	@touch $@

$(STAMPS)/demo: $(STAMPS)/base requirements/demo.txt
	$(PIP) install --require-hashes -r requirements/demo.txt
	@touch $@

$(STAMPS)/dev: $(STAMPS)/base requirements/dev.txt
	$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

# Editable: Python files are used where they lie, the module is built beside them.
$(NATIVE): $(STAMPS)/base $(RUST)
	PIP_QUIET=1 VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/maturin develop --release --locked --quiet
	@touch $@

demo: build $(STAMPS)/demo
	$(BIN)/python -m atlas.bench.demo $(if $(DATA),--data '$(DATA)')

bench: build
	$(BIN)/python -m atlas.bench.speed $(BENCH)

bench-scale: build
	$(BIN)/python -m atlas.bench.slots
	cargo run --locked --quiet --release -p atlas-fs --example image_scale -- $(or $(FILES),1000000)

lint: $(STAMPS)/dev
	cargo fmt --all --check
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	PYTHONPATH=python $(BIN)/lint-imports
	cargo clippy --locked --quiet --workspace --all-targets -- -D warnings

types: $(STAMPS)/dev
	$(BIN)/mypy
	$(BIN)/mypy --strict tools/*.py

# The binding crate converts only and links no test: it is tested from Python.
unit: build $(STAMPS)/dev
	cargo test --locked --quiet --workspace --exclude atlas-py --lib
	$(BIN)/pytest -q tests/unit

check: lint types unit

# One recipe, cheapest first, so that a broken unit stops the slow suites.
test: lint types build $(STAMPS)/dev
	cargo test --locked --workspace --exclude atlas-py
	set -e; for suite in $(SUITES); do $(BIN)/pytest $$suite; done

clean:
	rm -rf .venv target .cache/debian .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis demo.html bench.json
	find python tests tools -name __pycache__ -prune -exec rm -rf {} +
	rm -f python/atlas/_native*.so
