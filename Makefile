# `make demo` and `make test` do all their own set-up in .venv; nothing else is needed
# but Python 3.10 or newer with venv and headers, and a C compiler.
# `make help` shows the text behind each target's ##.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SHIM := $(wildcard shm_async/_shim/*.[ch])
# the package that shm_typed_array.py stands in for: tests/interop/node is about it
NODE_STAMP := $(if $(shell command -v node && command -v npm),build/node.stamp)
export TEST_NODE_DIR := $(CURDIR)/build/node
# the tests start thousands of interpreters, and each would compile what it imports
unexport PYTHONDONTWRITEBYTECODE
# another libc and another processor, where their compilers are (Debian: musl-tools and
# gcc-aarch64-linux-gnu libc6-dev-arm64-cross)
COMPILERS := $(CC) $(foreach compiler,musl-gcc aarch64-linux-gnu-gcc,$(shell command -v $(compiler)))
C_WARNINGS := -std=gnu11 -Wall -Wextra -Wconversion -Wpedantic -Werror

.PHONY: help dist docs demo example test test-long lint sanitize threads model stress fuzz wheel-test bench command-files drawings clean

help: ## what can be made
	@awk -F ': .*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/demo.stamp ## a web service whose 4 worker processes count in shared memory
	$(BIN)/python examples/web_counter_load.py

example: $(VENV)/examples.stamp ## run an example: NAME=rate_limiter, or another of examples/README.md
	$(BIN)/python examples/$(or $(NAME),rate_limiter).py

# Chosen tests run one after the other, the long ones among them. All others run in parallel, in
# one process more than there are cores: a third of a test's time is waiting for other processes.
# -n auto is that many, and none with --pdb.
export PYTEST_XDIST_AUTO_NUM_WORKERS ?= $(shell expr $$(nproc) + 1)
CHOSEN := $(filter tests/% -k% -m%,$(PYTEST_ARGS))
IN_PARALLEL := -n auto --maxprocesses 4
test: $(VENV)/test.stamp $(NODE_STAMP) ## the tests; some of them: PYTEST_ARGS="tests/contract -k upgrade"
	$(BIN)/python -m pytest $(if $(CHOSEN),,$(IN_PARALLEL) -m "not long") $(PYTEST_ARGS)

test-long: $(VENV)/test.stamp $(NODE_STAMP) ## the tests that `make test` leaves out: servers, examples, models
	$(BIN)/python -m pytest -m long $(PYTEST_ARGS)

lint: $(VENV)/test.stamp $(VENV)/lint.stamp ## the rules of the house: ruff, mypy, pyright, the arrows, lengths, the C
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	PATH="$(CURDIR)/$(BIN):$$PATH" PYTHONPATH=. $(BIN)/basedpyright --verifytypes shm_async --ignoreexternal \
	  >$(VENV)/types.txt || { cat $(VENV)/types.txt; exit 1; }
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/python tools/house.py
	$(BIN)/codespell
	$(BIN)/zizmor --offline --quiet --no-progress .github
	$(BIN)/clang-format --dry-run -Werror shm_async/_shim/*.[ch] tests/c/*.c benchmarks/*.c
	for compiler in $(COMPILERS); do for file in shm_async/_shim/*.c tests/c/*.c benchmarks/*.c; do \
	  $$compiler $(C_WARNINGS) -O2 -Ishm_async/_shim -c $$file -o /dev/null || exit 1; done; done

# The whole test suite with every memory error and every undefined operation of the shim fatal.
sanitize: $(VENV)/test.stamp $(NODE_STAMP) ## the tests, with the C under ASan and UBSan
	$(MAKE) build/sanitized.stamp
	$(SANITIZED) $(if $(CHOSEN),-m "not once",$(IN_PARALLEL) -m "not once and not long") $(PYTEST_ARGS)
	$(if $(CHOSEN),,$(SANITIZED) -m "long and not once" $(PYTEST_ARGS))

SANITIZED = cd build/sanitized && \
  LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libubsan.so)" \
  PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1 \
  ../../$(BIN)/python -m pytest -p no:cacheprovider --timeout 180 --ignore tests/docs

# The shim's threads under ThreadSanitizer, without Python: with the interrupting signal, and polling.
threads: build/threads ## the threads of the C under ThreadSanitizer
	./build/threads
	./build/threads polling

build/threads: tests/c/threads.c $(SHIM)
	mkdir -p build
	$(CC) $(C_WARNINGS) -Wno-tsan -g -O1 -fsanitize=thread -Ishm_async/_shim tests/c/threads.c shm_async/_shim/whole.c -o $@ -lpthread -lrt

build/sanitized.stamp: $(VENV)/test.stamp $(SHIM)
	rm -rf build/sanitized && mkdir -p build/sanitized
	cp -r build_backend.py build_ffi.py setup.py pyproject.toml README.md LICENSE share shm_async tests examples build/sanitized/
	rm -f build/sanitized/shm_async/_shim_ffi.*
	$(BIN)/python -m pip install -q 'setuptools>=77' cffi
	cd build/sanitized && CFLAGS="-g -O1 -fsanitize=address,undefined -fno-omit-frame-pointer" \
	  ../../$(BIN)/python setup.py -q build_ext --inplace --force
	touch $@

# Every state of the lock's protocol, in SPIN: processes that die, cancel, convert at any step.
model: $(VENV)/bin/python ## search every state of the lock's protocol (SPIN)
	$(BIN)/python tests/model/check.py

# Processes of every kind that are killed, stopped and cancelled at random; minutes, not seconds.
stress: $(VENV)/test.stamp ## kill, stop and cancel for minutes, and check the histories
	$(BIN)/python tests/stress/stress.py --seconds 100
	$(BIN)/python tests/stress/stress.py --seconds 100 --layout raw --floods 2
	TEST_KILLS=1000 $(BIN)/python -m pytest -q --timeout 1200 tests/crash/test_kills.py tests/unit/memory/test_prune.py -k kill

# Scripts against a live control page, for a minute, by a fuzzer that follows the coverage.
fuzz: $(VENV)/test.stamp $(VENV)/fuzz.stamp ## look for a control page that does harm
	mkdir -p build/fuzz
	$(BIN)/python tests/fuzz/fuzz_control.py -max_total_time=60 -timeout=10 -max_len=240 \
	  -artifact_prefix=build/fuzz/ $(FUZZ_ARGS) build/fuzz

dist: $(VENV)/dist.stamp ## sdist and wheel in dist/, built twice and checked for a release
	PYTHON=$(BIN)/python tools/dist.sh

# One wheel, made from the sdist, tried on every Python that is here.
wheel-test: dist $(NODE_STAMP) ## `make dist`, and tests of the wheel on every Python that is here
	tests/wheel.sh

# The pages of docs/ as a site. A link that leads nowhere is an error.
docs: $(VENV)/docs.stamp $(if $(shell command -v npm),build/mermaid/mermaid.min.js) ## the documentation as a site: build/docs/index.html
	$(BIN)/sphinx-build -q -W --keep-going docs build/docs

# it draws the diagrams of docs/lock-protocol.md; without it they are shown as text
build/mermaid/mermaid.min.js:
	mkdir -p build/mermaid
	cd build/mermaid && { npm pack --silent mermaid@11.17.2 >/dev/null && \
	  tar -xzf mermaid-11.17.2.tgz --strip-components 2 package/dist/mermaid.min.js && rm mermaid-11.17.2.tgz; } || \
	  { echo "mermaid could not be had, so diagrams are shown as text" >&2; test -z "$$CI"; }

# The manual page and the completions of the command, in share/.
command-files: $(VENV)/man.stamp ## the manual page and completions of shm-async, in share/
	$(BIN)/python tools/command_files.py

drawings: $(VENV)/test.stamp ## draw the pictures of docs/concepts
	$(BIN)/python tools/drawings.py

# What the lock costs, and what its peers cost: see `python -m benchmarks --help`;
# BENCH_ARGS="builds REV_A" compares this tree with another revision. Some peers need Python 3.12:
# VENV=build/python3.12 PYTHON=python3.12 makes an environment of that one, and measures with it.
bench: $(VENV)/test.stamp $(VENV)/bench.stamp ## measure the lock and its peers
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

# where it cannot be had, the tests that need it say so; with CI set they fail
build/node.stamp: tests/interop/node/install.sh tests/interop/node/package.json tests/interop/node/package-lock.json
	mkdir -p build
	if tests/interop/node/install.sh $(TEST_NODE_DIR) >build/node.log 2>&1; then touch $@; \
	else echo "shm-typed-array could not be built, so its tests are skipped: see build/node.log" >&2; \
	  test -z "$$CI" || { cat build/node.log; exit 1; }; fi

# what the extra of that name asks for
$(VENV)/%.stamp: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[$*]'
	touch $@

# these run what is built
$(VENV)/test.stamp $(VENV)/demo.stamp $(VENV)/examples.stamp: setup.py build_backend.py build_ffi.py $(SHIM)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

clean: ## remove all that these made
	rm -rf $(VENV) build dist *.egg-info shm_async/_shim_ffi.*
