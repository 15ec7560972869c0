# make book   environment, execute the pages, render _build/html
# make pdf    the whole book as _build/relif.pdf, printed by Chromium
# make test   everything that must hold: format, lint, types, fresh pages, book, tests, stored outputs
# make pages  re-execute stale pages and update notebooks/*.ipynb
# make lock   renew requirements.lock after a change of requirements.txt
# make clean  remove what was built (not the environment)

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := book
.PHONY: book pdf test pages check chromium clean environment lock

VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
# The first interpreter that the pinned packages support.
PYTHON ?= $(shell for python in python3.11 python3.12 python3; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && { echo $$python; break; }; done)

# Every step already uses WORKERS processes.
.NOTPARALLEL:

# An environment is made for one place: that of a checkout which was moved since is not up to date.
HERE := $(CURDIR)/$(VENV)
ifneq ($(shell cat $(VENV)/.installed 2>/dev/null),$(HERE))
.PHONY: $(VENV)/.installed
endif

# What a module compiles to is kept in the environment, whatever the caller's PYTHONDONTWRITEBYTECODE: else each of hundreds of
# processes compiles PyTorch again (4.1 instead of 2.0 s of processor time for the imports of a run).
export PYTHONPYCACHEPREFIX := $(HERE)/pycache
unexport PYTHONDONTWRITEBYTECODE

environment: $(VENV)/.installed

# Made anew where it was moved, or its making was interrupted before it held pip. The versions are those of the lock; its hashes
# are for `pip install --require-hashes -r requirements.lock`, since other builds of PyTorch (CPU, another CUDA) serve as well.
$(VENV)/.installed: requirements.txt requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or 3.12 found; install one or set PYTHON=/path/to/python" >&2; exit 1; }
	{ head -3 $(BIN)/pip 2>/dev/null | grep -qF "$(HERE)/bin/" && $(BIN)/python -m pip --version >/dev/null 2>&1; } || $(PYTHON) -m venv --clear $(VENV)
	sed -nE 's/^([^ ]+==[^\\]*[^\\ ]) *\\?$$/\1/p' requirements.lock >$(VENV)/constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.txt -c $(VENV)/constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps -e .
	echo "$(HERE)" > $@

book: environment
	$(BIN)/relif book --workers $(WORKERS)
	@echo "The book: _build/html/index.html"

pdf: environment chromium
	$(BIN)/relif book --workers $(WORKERS) --pdf

pages: environment
	$(BIN)/relif pages update --workers $(WORKERS)

# Quick checks that need no execution.
check: environment
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/mypy relif_core data/relif_data book/relif_book
	$(BIN)/relif pages check

# The book is rendered from the committed notebooks, and nbval executes every page once and compares each of its outputs with
# those. One thread per worker; a worker more than WORKERS, because many tests wait for processes that they kill.
test: check chromium
	$(BIN)/relif book --stored --workers $(WORKERS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $$(($(WORKERS) + 1)) --dist loadfile tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $$(($(WORKERS) + 1)) --dist loadfile --nbval -p relif_book.build.compare --nbval-cell-timeout 600 notebooks

# The browser tests drive Debian's Chromium; only a CI machine gets it unasked.
chromium:
	@command -v chromium >/dev/null && exit 0; \
	if [ "$${CI:-}" != true ]; then \
		echo "There is no Chromium, so the browser tests are skipped; to run them install the package 'chromium'." >&2; exit 0; \
	fi; \
	as_root=; [ "$$(id -u)" = 0 ] || as_root="sudo -n"; \
	$$as_root apt-get update -qq && \
	DEBIAN_FRONTEND=noninteractive $$as_root apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null

# Every package with the hashes of its files, for Python 3.11 and 3.12 on Linux; needs the command uv.
lock:
	uv pip compile requirements.txt --universal --python-version 3.11.5 --generate-hashes --no-annotate --no-header --quiet -o requirements.lock
	sed -i -E "s/python_full_version < '3.13' and //; s/( and| ;) sys_platform == 'linux'//" requirements.lock

clean:
	rm -rf _build book/notebooks
