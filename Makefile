# `make demo` and `make test` do all their own set-up in .venv; nothing else is needed
# but Python 3.10 or newer with venv and headers, and a C compiler.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SHIM := $(wildcard shm_async/_shim/*.[ch])
# the package that shm_typed_array.py stands in for: tests/node is about it
NODE_STAMP := $(if $(shell command -v node && command -v npm),build/node.stamp)
export TEST_NODE_DIR := $(CURDIR)/build/node
C_WARNINGS := -std=gnu11 -Wall -Wextra -Wconversion -Wpedantic -Werror

.PHONY: demo test lint sanitize threads model stress fuzz wheel-test bench clean

demo: $(VENV)/test.stamp
	$(BIN)/python examples/web_counter.py

test: $(VENV)/test.stamp $(NODE_STAMP)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/test.stamp $(VENV)/lint.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	for file in shm_async/_shim/*.c tests/c/*.c benchmarks/*.c; do \
	  $(CC) $(C_WARNINGS) -O2 -Ishm_async/_shim -c $$file -o /dev/null || exit 1; done

# The whole test suite with every memory error and every undefined operation of the shim fatal.
sanitize: $(VENV)/test.stamp $(NODE_STAMP)
	$(MAKE) build/sanitized.stamp
	cd build/sanitized && \
	  LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libubsan.so)" \
	  PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1 \
	  ../../$(BIN)/python -m pytest -p no:cacheprovider -m "not once" --ignore tests/test_readme.py --ignore tests/test_examples.py --ignore tests/test_recipes.py $(PYTEST_ARGS)

# The shim's threads under ThreadSanitizer, without Python: with the interrupting signal, and polling.
threads: build/threads
	./build/threads
	./build/threads polling

build/threads: tests/c/threads.c $(SHIM)
	mkdir -p build
	$(CC) $(C_WARNINGS) -Wno-tsan -g -O1 -fsanitize=thread -Ishm_async/_shim tests/c/threads.c shm_async/_shim/*.c -o $@ -lpthread -lrt

build/sanitized.stamp: $(VENV)/test.stamp $(SHIM)
	rm -rf build/sanitized && mkdir -p build/sanitized
	cp -r build_ffi.py setup.py pyproject.toml README.md LICENSE shm_async tests examples build/sanitized/
	rm -f build/sanitized/shm_async/_shim_ffi.*
	$(BIN)/python -m pip install -q 'setuptools>=77' cffi
	cd build/sanitized && CFLAGS="-g -O1 -fsanitize=address,undefined -fno-omit-frame-pointer" \
	  ../../$(BIN)/python setup.py -q build_ext --inplace --force
	touch $@

# Every state of the lock's protocol, in SPIN: processes that die, cancel, convert at any step.
model: $(VENV)/bin/python
	$(BIN)/python tests/model/check.py

# Processes of every kind that are killed, stopped and cancelled at random; minutes, not seconds.
stress: $(VENV)/test.stamp
	$(BIN)/python tests/stress.py --seconds 100
	$(BIN)/python tests/stress.py --seconds 100 --layout raw --floods 2
	TEST_KILLS=1000 $(BIN)/python -m pytest -q --timeout 1200 tests/test_kills.py tests/test_lifetime.py -k kill

# Scripts against a live control page, for a minute, by a fuzzer that follows the coverage.
fuzz: $(VENV)/test.stamp $(VENV)/fuzz.stamp
	mkdir -p build/fuzz
	$(BIN)/python tests/fuzz/fuzz_control.py -max_total_time=60 -timeout=10 -max_len=240 \
	  -artifact_prefix=build/fuzz/ $(FUZZ_ARGS) build/fuzz

# One wheel, made from the sdist, tried on every Python that is here.
wheel-test: $(VENV)/test.stamp $(NODE_STAMP)
	PYTHON=$(BIN)/python tests/wheel.sh

# What the lock costs, and what its peers cost: see `python -m benchmarks --help`.
bench: $(VENV)/test.stamp $(VENV)/bench.stamp
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

$(VENV)/test.stamp: pyproject.toml setup.py build_ffi.py $(SHIM) | $(VENV)/bin/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[test]'
	touch $@

# where it cannot be had, the tests that need it say so; with CI set they fail
build/node.stamp: tests/node/install.sh tests/node/package.json tests/node/package-lock.json
	mkdir -p build
	if tests/node/install.sh $(TEST_NODE_DIR); then touch $@; \
	else echo "no shm-typed-array for the interop tests" >&2; test -z "$$CI"; fi

$(VENV)/lint.stamp: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[lint]'
	touch $@

$(VENV)/fuzz.stamp: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[fuzz]'
	touch $@

$(VENV)/bench.stamp: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[bench]'
	touch $@

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) build dist *.egg-info shm_async/_shim_ffi.*
