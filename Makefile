# `make help` lists the targets. Everything is installed into .venv; a stamp file named after the
# installed set and a checksum of the files that decide it says that this set is there, so that
# nothing is installed twice.

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Test hosts that no extra can name go into requirements/<host>.txt, one file per host.
HOSTS := $(wildcard requirements/*.txt)
DETECTRON2 := pb1-detectron2==0.6
INPUTS := pyproject.toml constraints.txt $(HOSTS)
KEY := $(shell cat $(INPUTS) | cksum | cut -d ' ' -f 1)
CODE := $(wildcard dr_plugins dr_models timm_ext mmlab_ext d2_ext examples benchmarks tests)

CORE := $(VENV)/.stamp-core-$(KEY)
QUICKSTART := $(VENV)/.stamp-quickstart-$(KEY)
DEV := $(VENV)/.stamp-dev-$(KEY)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help quickstart test install lint format types imports bench clean

help:
	@echo "make quickstart   train on a small reinforced dataset and show what it gains"
	@echo "make test         run the tests (PYTEST_ARGS=\"-m 'not slow'\" for the quick ones)"
	@echo
	@echo "for developers:"
	@echo "make install      only what the tests need, into $(VENV)"
	@echo "make lint         ruff: rules and formatting"
	@echo "make format       ruff: repair both where it can"
	@echo "make types        mypy"
	@echo "make imports      the core imports no framework"
	@echo "make bench        run the benchmarks"
	@echo "make clean        remove $(VENV) and the tools' caches"
	@echo
	@echo "PYTHON=$(PYTHON) creates $(VENV); the first run downloads PyTorch (some GB)."

quickstart: $(QUICKSTART)
	$(BIN)/python -m examples.quickstart

test: $(DEV)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

install: $(DEV)

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(DEV)
	$(BIN)/mypy

imports: $(CORE)
	$(BIN)/python -m pytest tests/test_imports.py

bench: $(DEV)
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	find $(CODE) -type d -name __pycache__ -prune -exec rm -rf {} +

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
	$(PIP) install -c constraints.txt -e ".[test]"
	@rm -f $(VENV)/.stamp-core-* && touch $@

$(QUICKSTART): $(VENV)/.stamp-venv
	@echo "installing the package and what the quickstart needs into $(VENV)"
	$(PIP) install -c constraints.txt -e ".[quickstart]"
	@rm -f $(VENV)/.stamp-quickstart-* && touch $@

# Detectron2 is published as sources only; without its C++ part they need no building, only a path.
$(DEV): $(VENV)/.stamp-venv
	@echo "installing the package, its test hosts and the developer's tools into $(VENV)"
	$(PIP) install -c constraints.txt -e ".[timm,remote,quickstart,dev]" $(addprefix -r ,$(HOSTS))
	$(PIP) download --no-deps --no-build-isolation --no-binary :all: -d $(VENV)/src $(DETECTRON2)
	tar -xzf $(VENV)/src/$(subst ==,-,$(DETECTRON2)).tar.gz -C $(VENV)/src
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' | { read -r site; \
	    echo "$(abspath $(VENV))/src/$(subst ==,-,$(DETECTRON2))" > "$$site/detectron2.pth"; }
	@rm -f $(VENV)/.stamp-dev-* && touch $@
