# `make demo` and `make test` work on a fresh machine: each makes .venv with everything in it first.
# Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
EXTRAS := demo,dev,export,rtx,text,vision
# The same version as in constraints.txt, which stays the only place to change it.
TORCH := $(shell grep '^torch==' constraints.txt)
PIP := $(BIN)/python -m pip -qq --no-input --disable-pip-version-check install

export PIP_NO_INPUT := 1
export PYTHONUTF8 := 1

.PHONY: help setup test demo lint bench wheel clean
.DELETE_ON_ERROR:

help:
	@echo "make demo   compile a sentence model for this CPU and for an NVIDIA L4, and search with it"
	@echo "make test   lint, check types and run the tests"
	@echo "make lint   lint and check types only"
	@echo "make bench  measure against other tools"
	@echo "make wheel  build the wheel and the source distribution into dist/"
	@echo "make setup  only make $(VENV)"
	@echo "make clean  remove $(VENV) and whatever was built"

setup: $(READY)

$(READY): setup.cfg setup.py pyproject.toml constraints.txt edgebig/calibrate/_counting.c edgebig/serve/*.[ch]
	@PYTHON='$(PYTHON)' sh scripts/make-venv.sh $(VENV)
	@echo "edgebig: installing torch, alone, so that a CPU build already there is kept" >&2
	@$(PIP) '$(TORCH)' </dev/null
	@echo "edgebig: installing everything else" >&2
	@$(PIP) -c constraints.txt -e '.[$(EXTRAS)]' </dev/null
	@touch $@

test: lint
	$(BIN)/python -m pytest -q </dev/null

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

demo: $(READY)
	@$(BIN)/python examples/demo.py </dev/null

bench: $(READY)
	$(BIN)/python benchmarks/compile/run.py </dev/null

wheel: $(READY)
	$(BIN)/python -m build --no-isolation --outdir dist .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	rm -f edgebig/calibrate/_counting.*.so edgebig/serve/_shared.*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
