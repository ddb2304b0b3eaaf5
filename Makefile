# `make` lists the commands. Nothing but Python >= 3.11 and make is assumed.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SEEDS  ?= 0 1 2 3 4

.DEFAULT_GOAL := help
.PHONY: help setup book test slow bench lab seeds lock address clean

help:            ## this list
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## */  make \1\t/' | expand -t 18

$(VENV)/.ready: requirements/lock.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, $(PYTHON) is older: make PYTHON=/path/to/python3.11 …"; exit 1; }
	@echo "Setting up $(VENV) from requirements/lock.txt (once; a few minutes)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --use-pep517 --disable-pip-version-check -r requirements/lock.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

setup: $(VENV)/.ready      ## the environment, weights and data: everything that needs a network
	$(BIN)/plm-tutorial fetch

book: setup      ## execute the pages that changed, build the HTML, print its path
	$(BIN)/python tools/book.py

test: setup      ## everything that must hold: package, every page, the built book in a browser
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not book and not slow"
	$(BIN)/python tools/book.py execute --all
	$(BIN)/python tools/book.py html
	$(BIN)/python -m pytest -n 2 --dist worksteal -m book

slow: setup      ## the tests that take minutes; renews the records of damaged weights
	$(BIN)/python -m pytest -m slow

bench: setup     ## time decoding and encoding against the usual tools; renews the records (a quiet machine, 5 minutes)
	$(BIN)/python benchmarks/decoding.py
	$(BIN)/python benchmarks/encoding.py

lab: setup       ## JupyterLab on the chapters
	$(BIN)/jupyter lab chapters

seeds: setup     ## run the pages under other seeds and record which claims held (SEEDS="0 1 2 3 4")
	$(BIN)/python tools/book.py seeds $(SEEDS)

lock: $(VENV)/.ready       ## renew requirements/lock.txt and environment.yml from pyproject.toml (UPGRADE=1: newest)
	UPGRADE=$(UPGRADE) $(BIN)/python tools/lock.py

address: $(VENV)/.ready    ## rewrite the repository's address everywhere: make address URL=https://…
	$(BIN)/python tools/address.py $(URL)

clean:           ## remove what was built (out/, _build/); keeps .venv and the downloaded weights
	rm -rf out _build
