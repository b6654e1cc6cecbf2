PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench tables clean

help:
	@echo "make demo    set up, train and compare on real data, write runs/demo/report.html"
	@echo "make test    set up, run all tests"
	@echo "make check   set up, lint and type check"
	@echo "make bench   set up with the peers, run the short benchmarks"
	@echo "make tables  write the README's tables anew from the docstrings"

# The constraints pick the CPU build of torch; leave them out (make CONSTRAINTS= setup) to take your own.
CONSTRAINTS ?= -c constraints.txt

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e '.[demo,dev]'
	@touch $@

setup: $(STAMP)

demo: setup
	$(BIN)/manyheads demo -o runs/demo --force

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

check: setup
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e '.[bench]'
	$(BIN)/python -m benchmarks.fit_throughput
	$(BIN)/python -m benchmarks.stacked

tables: setup
	$(BIN)/python -m manyheads.commands.doctor README.md

clean:
	rm -rf $(VENV) runs build dist src/*.egg-info
