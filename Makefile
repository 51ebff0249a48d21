# The two commands: `make demo` and `make test`. Both make .venv first, from nothing.

PYTHON ?= python3
VENV ?= .venv
# Name another torch here for a GPU; the pinned one is what everything was tested with.
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin

.PHONY: demo test test-all test-checked test-slow-share bench docs lint install clean help

help:
	@echo "make demo      from this machine's own text to a trained, exported model, in runs/demo"
	@echo "make test      the tests, with style and types"
	@echo "make test-all  the slow ones too"
	@echo "make bench     ours beside its peers, see docs/benchmarks.md"
	@echo "make docs      the documentation as a site, in build/site"
	@echo "make install   only the environment, in $(VENV)"
	@echo "make clean     remove $(VENV) and runs/demo"

demo: $(VENV)/installed
	$(BIN)/altiplano demo

# Tests run in so many processes; most of them wait for others much of the time.
TEST_PROCESSES ?= 2
PYTEST := $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadgroup

test: lint
	$(PYTEST) -m "not slow"

test-all: lint
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[eval,ray]"
	$(PYTEST)

# Every load and store of compiled code is checked: the unit tests of data_prep that run any.
KERNEL_TESTS := $(addprefix tests/unit/data_prep/,signals tokenizer dedup rules indexed_dataset kernels test_tokenize.py \
	test_kernels_on_any_text.py)
test-checked: $(VENV)/installed
	ALTIPLANO_CHECKED_KERNELS=1 NUMBA_BOUNDSCHECK=1 $(PYTEST) -m "not slow" -k "not memory" $(KERNEL_TESTS)

# One in SLOW_TURNS of the slow tests, those whose turn TURN is.
SLOW_TURNS ?= 20
TURN ?= 0
test-slow-share: $(VENV)/installed
	$(PYTEST) --slow-share=$$(( $(TURN) % $(SLOW_TURNS) ))/$(SLOW_TURNS)

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[bench]"
	$(BIN)/altiplano data run --config configs/data/demo.yaml
	$(BIN)/altiplano bench all --page docs/benchmarks.md

docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	$(BIN)/python -m tools.settings_reference
	$(BIN)/mkdocs build --strict --quiet
	@echo "build/site/index.html"

install: $(VENV)/installed

# torch comes first and by itself: with a version named, pip takes the build that is at hand instead of the newest.
$(VENV)/installed: setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "Python 3.10 to 3.13 is needed, $(PYTHON) is `$(PYTHON) -V`: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt "$(TORCH)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[data,train,convert,dev]"
	touch $@

clean:
	rm -rf $(VENV) runs/demo
