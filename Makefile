# Everything needed is Python 3.11 or newer and make; the rest goes into .venv, once.
#
#   PYTHON       interpreter to build .venv with (default: python3.11, else the first newer one)
#   TORCH        which torch, as pip names it
#   TORCH_INDEX  package index to take torch from (default: the CPU build on a Linux machine without an NVIDIA GPU)
#   LOCKED       1: the versions of .ci/lock.txt, where it was made for this Python, torch and system (default: 1 in CI)
#   ARGS         passed on: options of the command, or of pytest
#   BOUNDS       for `make bounds`: lowest or newest (default: lowest)
#   EXTRAS       for `make bounds`: extras to install beside, with commas (default: dev, which has pytest)
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
PYTHON ?=
LOCKED ?= $(if $(CI),1)
ARGS ?=
BOUNDS ?= lowest
EXTRAS ?= dev
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: help setup setup-run lock pretrain test lint format docs bounds clean-venv

help:
	@echo 'make pretrain [ARGS="key=value ..."]   train the tiny model on the bundled cells, or go on where it stopped'
	@echo 'make test [ARGS="-k name"]             run the tests'
	@echo 'make lint                              style and types, as the pre-commit hooks check them'
	@echo 'make format                            put the style right where that is mechanical'
	@echo 'make docs                              build the documentation into build/site, warnings being errors'
	@echo 'make setup                             build .venv only (every other target does so when needed)'
	@echo 'make lock                              newest versions of all that is needed, into .ci/lock.txt'
	@echo 'make bounds                            run the package on the lowest versions that setup.cfg allows (BOUNDS=newest)'
	@echo 'make clean-venv                        remove .venv'
	@echo 'Set at will: PYTHON=python3.12  TORCH=torch==2.11.0  TORCH_INDEX=https://download.pytorch.org/whl/cu126'

# The script does nothing when .venv is up to date: same setup.cfg, pyproject.toml, lock and variables. `setup-run` leaves
# out the developers' tools, which `setup` adds.
setup: TOOLS := 1
setup setup-run:
	@TOOLS='$(TOOLS)' VENV='$(VENV)' PYTHON='$(PYTHON)' TORCH='$(TORCH)' TORCH_INDEX='$(TORCH_INDEX)' LOCKED='$(LOCKED)' sh .ci/setup-venv

# From a fresh environment; torch is named as a release, without the name of the build.
lock:
	@$(MAKE) --no-print-directory clean-venv
	@$(MAKE) --no-print-directory setup LOCKED=0
	@sh .ci/lock-for '$(RUN)' '$(TORCH)' >$(VENV)/lock.txt
	@$(RUN) -m pip freeze --disable-pip-version-check --exclude-editable --exclude cellfm_torch | sed 's/+.*//' >>$(VENV)/lock.txt
	@mv $(VENV)/lock.txt .ci/lock.txt

pretrain: setup-run
	@$(RUN) -m cellfm_torch.train +experiment=pretrain resume=true $(ARGS)
	@command -v cellfm >/dev/null || echo "cellfm:     . $(VENV)/bin/activate puts it on the path of this shell"

# Two workers with one thread each: the tests are many and small, and threads of several workers hinder each other.
test: setup
	@OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n 2 --dist worksteal $(ARGS)

lint: setup
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy

format: setup
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .

docs: setup
	@NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(RUN) -m mkdocs build --quiet --strict $(ARGS)
	@echo "open build/site/index.html, or with the search: $(RUN) -m http.server -d build/site"

bounds:
	@PYTHON='$(PYTHON)' BOUNDS='$(BOUNDS)' EXTRAS='$(EXTRAS)' ARGS='$(ARGS)' sh .ci/bounds

clean-venv:
	@rm -rf $(VENV)
