# Two commands on a fresh machine with Python 3.11+, a C++ compiler and make:
#   make demo    train a network on real digits, draw it, measure the speed
#   make test    the test suite, but for a quarter of it that takes long: make test-slow
# Each sets up what it needs in .venv first: pinned packages, and fastxent built from this tree.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.installed
CORE := $(VENV)/.core
SOURCES := pyproject.toml setup.py constraints.txt $(wildcard src_cython/*.pyx src_cython/*.px[di] src_cython/*.?pp src_cython/*.[ch])

.PHONY: help setup demo test test-slow test-core test-wheel test-levels test-oldest test-newest test-builds \
	test-large test-cuda bench bench-report bench-large bench-linear bench-scaling bench-cuda \
	accuracy cubins instructions threads reliability sanitize fuzz soak differential \
	lint format build clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(SETUP)  ## Create .venv, install the pinned packages, build and install fastxent in it

$(SETUP): $(SOURCES)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fastxent needs Python 3.11 or later; set PYTHON=")'
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation \
		--editable '.[demo,bench]'
	touch $@

demo: $(SETUP)  ## Train on real digits, compare with the textbook, draw it, measure the speed
	$(BIN)/fastxent demo

# A file of tests stays in one process: what Numba compiles for it is compiled once.
test: $(SETUP)  ## Run the doctests and the tests, but for a quarter that take long (test-slow)
	$(BIN)/python -m pytest -n auto --dist loadfile

test-slow: $(SETUP)  ## Run the tests that `make test` leaves out since they take long
	$(BIN)/python -m pytest -n auto --dist loadfile -m slow

test-levels: $(SETUP)  ## Run the conformance suite on every instruction level this CPU has
	for level in baseline v3 v4; do \
		FASTXENT_ISA=$$level $(BIN)/python -m pytest -q tests/test_conformance.py -k cython || exit 1; \
	done

# What a machine without frameworks has; where everything is installed, it is there already.
$(CORE): $(SOURCES)
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group core
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable .
	touch $@

test-core: $(CORE)  ## Run the tests that need no framework, in an environment without any
	$(BIN)/python -m pytest -n auto --dist loadfile --ignore=tests/frameworks

# The programs of tests/reliability keep what they find for docs/reliability.md.
RELIABILITY := PYTHONPATH="$(CURDIR):$(CURDIR)/tests" $(BIN)/python -m reliability

reliability: $(SETUP)  ## Keep every promise to the test, for hours; write docs/reliability.md
	$(RELIABILITY).run

sanitize: $(SETUP)  ## Run under address, undefined-behaviour and thread sanitizers, and valgrind
	$(RELIABILITY).run --only sanitize

fuzz: $(SETUP)  ## Fuzz the public functions and the kernels for 5 minutes
	$(RELIABILITY).fuzz; code=$$?; $(RELIABILITY).run --page-only; exit $$code

differential: $(SETUP)  ## Hold 100,000 random calls against the reference and PyTorch
	$(RELIABILITY).run --only differential

soak: $(SETUP)  ## Watch memory, threads and files during 20 minutes of mixed calls
	$(RELIABILITY).run --only soak

test-large: $(SETUP)  ## More than 2**31 elements, rows and bytes; needs 12 GB of memory
	$(RELIABILITY).run --only large

test-wheel: $(SETUP)  ## Build sdist and wheel, test the wheel where the source tree is absent
	$(RELIABILITY).environments --only wheel --whole; code=$$?; $(RELIABILITY).run --page-only; exit $$code

test-oldest: $(SETUP)  ## Run the core tests with the oldest versions that are supported
	$(RELIABILITY).environments --only oldest; code=$$?; $(RELIABILITY).run --page-only; exit $$code

test-newest: $(SETUP)  ## Run the core tests with the newest versions there are
	$(RELIABILITY).environments --only newest; code=$$?; $(RELIABILITY).run --page-only; exit $$code

test-builds: $(SETUP)  ## Run the core tests on builds without OpenMP and by clang; on an old CPU
	$(RELIABILITY).environments --only no-openmp clang nehalem; code=$$?; $(RELIABILITY).run --page-only; exit $$code

# Where a card is, PyTorch and the rest are already made for it: these two use them as they are.
test-cuda:  ## Run the conformance suite on the graphics card, with PYTHON=python3 and its packages
	PYTHONPATH="$(CURDIR)" $(PYTHON) tests/gpu/card/run.py

bench-cuda:  ## Measure the graphics card beside its peers, in under 10 minutes; tables, picture
	PYTHONPATH="$(CURDIR)" $(PYTHON) benchmarks/card.py

bench: $(SETUP)  ## Measure everything beside its peers, in under 10 minutes; tables, pictures
	mkdir -p benchmarks/results
	$(BIN)/python -m pytest benchmarks --quiet --benchmark-json=benchmarks/results/raw.json
	$(BIN)/python benchmarks/report.py benchmarks/results/raw.json

bench-report: $(SETUP)  ## Make tables and pictures again from the results of the last run
	$(BIN)/python benchmarks/report.py

bench-large: $(SETUP)  ## Time more than 2**31 elements in place; needs 9 GB of memory
	mkdir -p benchmarks/results
	$(BIN)/python benchmarks/large.py
	$(BIN)/python benchmarks/report.py

bench-linear: $(SETUP)  ## Measure the loss behind a linear layer beside its products, PyTorch, JAX
	$(BIN)/python benchmarks/linear_layer.py

bench-scaling: $(SETUP)  ## Measure classes spread over 1 to 5 processes; draw the model's curve
	$(BIN)/python benchmarks/scaling.py

accuracy: $(SETUP)  ## Measure the errors of exp, loss and gradient; write docs/accuracy.md
	$(BIN)/python benchmarks/accuracy.py

instructions: $(SETUP)  ## Count the instructions an element takes in the compiled loops
	$(BIN)/python benchmarks/instructions.py

cubins: $(SETUP)  ## Show what the kernels for graphics cards are compiled to; write docs/cuda.md
	$(BIN)/python benchmarks/cubins.py

threads: $(SETUP)  ## Show how many threads are chosen, and what the choice costs
	$(BIN)/python benchmarks/threads.py

lint: $(SETUP)  ## Style, types, Cython
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint src_cython

format: $(SETUP)  ## Rewrite the Python files in the project's style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

build: $(SETUP)  ## Build sdist and wheel into dist/
	$(BIN)/python -m build --no-isolation

clean:  ## Remove everything that was built, .venv too
	rm -rf $(VENV) build dist *.egg-info fastxent/backends/*.so src_cython/_kernels.cpp
