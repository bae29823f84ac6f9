# `make demo` and `make test` do everything on a fresh machine, in a virtual environment of their own.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint wheel tutorials clean

demo: $(VENV)/.run
	$(BIN)/nstorm demo

test: lint
	$(BIN)/python -m pytest

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# builds the wheel and tests it outside the checkout, with the oldest versions that pyproject.toml allows
wheel: $(VENV)/.dev
	$(BIN)/python tools/check_wheel.py

tutorials: $(VENV)/.dev
	cd tutorials && for source in *.py; do ../$(BIN)/jupytext --to ipynb "$$source" || exit 1; done
	cd tutorials && TQDM_DISABLE=1 ../$(BIN)/jupyter nbconvert --to notebook --execute --inplace \
		--ExecutePreprocessor.record_timing=False *.ipynb

$(VENV)/.run: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("nstorm needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; call make with PYTHON=path/to/python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.run
	$(BIN)/pip install --quiet --group dev
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
