# demo and test start from a bare Debian 12 or 13 with python3 and make; a second run does no work twice.

PYTHON := .venv/bin/python
PREFIX ?= /usr/local
MULTIARCH := /usr/lib/x86_64-linux-gnu
HOME_DIR := $(PREFIX)/lib/libbpf_shim
PYTEST = $(PYTHON) -m pytest
C_FILES = $(wildcard csrc/*/*.[ch] compat_tests/*/*.[ch] tools/*/*.[ch])

.PHONY: all setup build demo test test-long test-tiers bench lint format install uninstall clean

all: build

setup:
	@tools/setup.sh

build: setup
	@$(PYTHON) -W ignore setup.py -q build_ext --inplace # setuptools warns of itself
	@$(PYTHON) -m compileall -q libbpf_shim # other users cannot write __pycache__
	@install -m 755 tools/bpf-shim .venv/bin/bpf-shim

demo: build
	@$(PYTHON) tools/demo.py

test: build
	@$(PYTEST) -q $(TESTS)

test-long: build
	@$(PYTEST) -q --long $(TESTS)

# the differential and fault tests by one tier alone at a time
test-tiers: build
	@$(PYTHON) tools/test_tiers.py $(TESTS)

# every table, whatever one says; the status is that of all
bench: build
	@status=0; for one in machine "bench $(BENCH)" "ops $(OPS)" scales start maps loads verifier compute tokens \
		hosts isolation; do \
		set -- $$one; name=$$1; shift; $(PYTHON) tools/bench/$$name.py "$$@" || status=1; \
	done; exit $$status

lint: setup
	@.venv/bin/ruff check libbpf_shim tools compat_tests setup.py
	@.venv/bin/mypy
	@.venv/bin/lint-imports
	@command -v clang-format-14 >/dev/null || { echo "make lint: no clang-format-14 (Debian 12's; PyPI has" \
		"clang-format==14.0.6): the layout of C is not looked at" >&2; exit 1; }
	@clang-format-14 --dry-run -Werror $(C_FILES)

format: setup
	@clang-format-14 -i $(C_FILES)

# The tree and its virtual environment, copied; the library on the loader's own path.
install: build
	@tools/install.sh $(HOME_DIR) $(MULTIARCH) $(PREFIX)/bin

uninstall:
	rm -f $(MULTIARCH)/libbpf_shim.so $(PREFIX)/bin/bpf-shim
	rm -rf $(HOME_DIR)

clean:
	rm -rf build libbpf_shim/_lib libbpf_shim/_bin libbpf_shim/_native*.so
