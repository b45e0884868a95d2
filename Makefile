# `make help` lists the targets. Everything is installed into .venv; a stamp file named after the
# installed set and a checksum of the files that decide it says that this set is there, so that
# nothing is installed twice.

PYTHON ?= python3
PYTEST_ARGS ?=
# Processes of `make test`, with one thread each; a process needs up to 4 GB of memory.
JOBS ?= 2
# lite: upstream's packages, nothing to compile. compiled: the maintained forks with mmcv's operators.
MMCV ?= lite
# A checkout of Detectron2, to build and test with instead of the pure Python sources of 0.6.
DETECTRON2 ?=
VENV ?= .venv$(if $(filter compiled,$(MMCV)),-compiled)$(if $(DETECTRON2),-detectron2)
# What was compiled is kept, for other clones too.
WHEELS ?= $(HOME)/.cache/dr-plugins/wheels
CONSTRAINTS ?= constraints.txt
EXTRAS ?= test
OLDEST_VENV ?= .venv-oldest
CORE_TESTS ?= tests/dr_plugins

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Test hosts that no extra can name.
HOSTS := requirements/imagenet.txt requirements/detectron2.txt requirements/mmlab-$(MMCV).txt requirements/loops.txt
# Published as sources only. Without its C++ part Detectron2 needs no building, only a path; of
# labelme the tests use the photographs.
DETECTRON2_SOURCES := pb1-detectron2==0.6
PHOTOGRAPHS := labelme==6.3.1
SDIST := download --no-deps --no-binary :all: -d $(VENV)/src
MMCV_FORK := onedl-mmcv==2.3.6
# Installed without what it asks for; mmlab-lite.txt names what it needs.
MMPRETRAIN := mmpretrain==1.2.0
ifdef DETECTRON2
export DETECTRON2_TOOLS := $(abspath $(DETECTRON2))/tools
endif
INPUTS := pyproject.toml constraints.txt $(HOSTS) requirements/mmlab-forks.txt Makefile
KEY := $(shell cat $(INPUTS) | cksum | cut -d ' ' -f 1)

CORE := $(VENV)/.stamp-core-$(KEY)
QUICKSTART := $(VENV)/.stamp-quickstart-$(KEY)
DEV := $(VENV)/.stamp-dev-$(KEY)

ifeq ($(filter lite compiled,$(MMCV)),)
$(error MMCV is "$(MMCV)"; expected lite or compiled)
endif

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help quickstart test core oldest install lint format types docs imports bench clean

help:
	@echo "make quickstart   train on a small reinforced dataset and show what it gains"
	@echo "make test         run the tests (PYTEST_ARGS=\"-m 'not slow'\" for the quick ones)"
	@echo "  MMCV=compiled     with OpenMMLab's maintained forks and compiled operators (first: 15 min)"
	@echo "  DETECTRON2=PATH   with the Detectron2 that is checked out there"
	@echo
	@echo "for developers:"
	@echo "make install      only what the tests need, into $(VENV)"
	@echo "make lint         ruff: rules and formatting; the layers of CONTRIBUTING.md"
	@echo "make format       ruff: repair both where it can"
	@echo "make types        mypy"
	@echo "make docs         the documentation as a site, in build/site"
	@echo "make imports      the core imports no framework"
	@echo "make core         the quick tests of the core, where no framework is installed"
	@echo "make oldest       the same and timm_ext, with the lowest versions of pyproject.toml, in $(OLDEST_VENV)"
	@echo "make bench        run the benchmarks"
	@echo "make clean        remove $(VENV) and the tools' caches"
	@echo
	@echo "PYTHON=$(PYTHON) creates $(VENV); the first run downloads PyTorch (some GB)."

quickstart: $(QUICKSTART)
	$(BIN)/python -m examples.quickstart

# A process that has finished its half takes tests from the other's.
test: $(DEV)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

install: $(DEV)

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(DEV)
	$(BIN)/mypy

# Every warning is an error: links, anchors, pages without a place, names that do not exist.
docs: $(DEV)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

imports: $(CORE)
	$(BIN)/python -m pytest tests/test_imports.py

core: $(CORE)
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS) $(CORE_TESTS)

# One truth: each `NAME>=VERSION` of pyproject.toml becomes `NAME==VERSION`.
oldest:
	@mkdir -p build
	@grep -oE '"[A-Za-z0-9-]+>=[0-9.]+"' pyproject.toml | tr -d '"' | sed 's/>=/==/' > build/oldest.txt
	$(MAKE) -s VENV=$(OLDEST_VENV) EXTRAS=test,timm CONSTRAINTS=build/oldest.txt \
	    CORE_TESTS="tests/dr_plugins tests/timm_ext" core

bench: $(DEV)
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) $(OLDEST_VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache \
	    .hypothesis build dist
	find . -path "./.*" -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

# An existing environment is used as it is, whoever made it.
$(VENV)/.stamp-venv:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10))" || \
	    { echo "error: $(PYTHON) is missing or older than Python 3.10; choose another one with" \
	        "make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c "import ensurepip, venv" 2>/dev/null || \
	    { echo "error: $(PYTHON) cannot create environments; on Debian and Ubuntu:" \
	        "apt-get install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || \
	    { echo "creating $(VENV)"; $(PYTHON) -m venv --clear $(VENV); }
	@touch $@

$(CORE): $(VENV)/.stamp-venv
	@echo "installing the package and what the import tests need into $(VENV)"
	$(PIP) install -c $(CONSTRAINTS) -e ".[$(EXTRAS)]"
	@rm -f $(VENV)/.stamp-core-* && touch $@

$(QUICKSTART): $(VENV)/.stamp-venv
	@echo "installing the package and what the quickstart needs into $(VENV)"
	$(PIP) install -c constraints.txt -e ".[quickstart]"
	@rm -f $(VENV)/.stamp-quickstart-* && touch $@

$(DEV): $(VENV)/.stamp-venv
	@echo "installing the package, its test hosts and the developer's tools into $(VENV)"
	$(PIP) install -c constraints.txt -e ".[timm,remote,ray,fast,quickstart,evaluate,dev]" $(addprefix -r ,$(HOSTS))
	$(PIP) $(SDIST) $(PHOTOGRAPHS)
	tar -xzf $(VENV)/src/$(subst ==,-,$(PHOTOGRAPHS)).tar.gz -C $(VENV)/src
ifdef DETECTRON2
	FORCE_CUDA=0 MAX_JOBS=2 $(PIP) install --no-build-isolation $(DETECTRON2)
else
	$(PIP) $(SDIST) --no-build-isolation $(DETECTRON2_SOURCES)
	tar -xzf $(VENV)/src/$(subst ==,-,$(DETECTRON2_SOURCES)).tar.gz -C $(VENV)/src
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' | { read -r site; \
	    echo "$(abspath $(VENV))/src/$(subst ==,-,$(DETECTRON2_SOURCES))" > "$$site/detectron2.pth"; }
endif
ifeq ($(MMCV),compiled)
	$(MAKE) -s VENV=$(VENV) MMCV=compiled forks
else
	$(PIP) install --no-deps $(MMPRETRAIN)
endif
	@rm -f $(VENV)/.stamp-dev-* && touch $@

# mmcv's setup asks for C++17, torch's headers for C++20; the last option wins. pip's own cache does
# not tell wheels of different versions of torch apart, hence a folder for each.
.PHONY: forks
forks: TORCH = $(shell $(BIN)/python -c "import sys, torch; print(f'torch{torch.__version__}-py{sys.version_info[1]}')")
forks: FOLDER = $(WHEELS)/$(TORCH)
forks:
	$(PIP) install --no-deps -r requirements/mmlab-forks.txt
	@mkdir -p $(FOLDER) $(VENV)/build
	@printf '#!/bin/sh\nexec c++ "$$@" -std=c++20 -g0 -O1\n' > $(VENV)/build/c++20
	@chmod +x $(VENV)/build/c++20
	@ls $(FOLDER)/onedl_mmcv-*.whl >/dev/null 2>&1 || \
	    { echo "compiling $(MMCV_FORK): 5 to 15 minutes on two cores"; \
	    MAX_JOBS=2 FORCE_CUDA=0 CXX=$(abspath $(VENV))/build/c++20 $(PIP) wheel --no-cache-dir \
	        --no-deps --no-build-isolation -w $(FOLDER) $(MMCV_FORK); }
	$(PIP) install --no-deps $(FOLDER)/onedl_mmcv-*.whl
