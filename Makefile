# `make` lists the targets. PYTHON chooses the interpreter of a new environment, VENV its folder:
#     make test PYTHON=python3.12 VENV=.venv-3.12

PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

# Without a limit torch starts one thread per core, which is slow for small inputs and unfair on
# shared machines.
export OMP_NUM_THREADS ?= 2
# Threads that wait spin this often before they sleep. The default of 300000 makes a busy machine six
# times slower, none at all an idle one twice.
export GOMP_SPINCOUNT ?= 10000

.DEFAULT_GOAL := help
.PHONY: help setup venv demo test test-slow lint format clean python-is-right

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1:/p' Makefile | awk -F: '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(STAMP) ## Create the environment with Detectron2 and this project (editable)

venv: setup ## The same as setup

# With matrices this small a second thread gains a fifth, and makes a busy machine six times slower.
demo: export OMP_NUM_THREADS := 1
demo: $(STAMP) ## Train a small model on generated images and draw what it finds
	$(PY) tools/make_demo.py

# Processes that take one file of tests after another, on one thread each: most tests are too small for more.
WORKERS ?= 2
RUN_TESTS := -m pytest -q --numprocesses $(WORKERS) --dist loadfile

test test-slow: export OMP_NUM_THREADS := 1
test: lint ## Linter, types, and the tests that take seconds; SLOW=1 runs all, COVERAGE=1 measures branches
	$(if $(COVERAGE),$(RUN_WITH_COVERAGE),$(PY) $(RUN_TESTS))
	$(if $(SLOW),$(PY) $(RUN_TESTS) -m slow --durations=15)

# Python before 3.14 follows branches by a trace function, which makes the tests half as slow again.
define RUN_WITH_COVERAGE
rm -f .coverage .coverage.*
	$(PY) -m coverage run $(RUN_TESTS)
	$(PY) -m coverage combine -q
	$(PY) -m coverage report
endef

test-slow: $(STAMP) ## The tests that take longer
	$(PY) $(RUN_TESTS) -m slow

lint: $(STAMP) ## Linter, formatting, and types, without changing anything
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(STAMP) ## Format the code and apply the linter's safe fixes
	$(PY) -m ruff check --fix --exit-zero .
	$(PY) -m ruff format .

clean: ## Remove the environment, caches, and build results
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage*
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +

# Setuptools computes the packages when it installs, so a new project means a new installation.
$(STAMP): constraints.txt setup.py pyproject.toml sap_detr/commands/install_detectron2.py \
		$(wildcard projects/*/*/__init__.py) | python-is-right
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -c constraints.txt setuptools wheel
	$(PY) -m pip install -c constraints.txt --no-build-isolation -e '.[dev]'
	$(PY) -m sap_detr.cli install-detectron2
	$(PY) -m pip check
	@touch $@

# An existing environment is used as it is, unless PYTHON asks for another version by name.
python-is-right:
	@if ! test -x $(PY) || test '$(origin PYTHON)' = 'command line'; then \
		command -v $(PYTHON) > /dev/null \
			|| { echo 'make: $(PYTHON) not found; choose one with PYTHON=/path/to/python' >&2; exit 1; }; \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
			|| { echo "make: Python 3.10 or later is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1);" \
				"choose another with PYTHON=/path/to/python" >&2; exit 1; }; \
	fi; \
	if test -x $(PY) && test '$(origin PYTHON)' = 'command line'; then \
		asked=$$($(PYTHON) -c 'import sys; print(*sys.version_info[:2], sep=".")'); \
		found=$$($(PY) -c 'import sys; print(*sys.version_info[:2], sep=".")'); \
		test "$$asked" = "$$found" \
			|| { echo "make: $(VENV) has Python $$found, not $$asked; choose another folder" \
				"with VENV=.venv-$$asked, or make clean first" >&2; exit 1; }; \
	fi
