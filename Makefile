# What one can do here; `make` alone lists it. Everything happens in a virtual environment of its own,
# .venv, made when it is first needed. Variables: PYTHON=python3.12, TORCH="torch==2.12.0",
# TRITON= (empty: without it), TESTS=tests/ops, JOBS=4, BENCH="masked_attention", ARGS="--quick",
# CARRY_PYTHON=python3.12 (that of the machine for which `make carry` builds).

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
TRITON ?= $(if $(filter Linux,$(shell uname -s)),triton==3.7.0)
TESTS ?= tests
BENCH ?= masked_attention
CARRY_PYTHON ?= $(PYTHON)
ARGS ?=
# Test processes; each runs one OpenMP thread, so that they share the cores without crowding them.
JOBS ?= $(shell $(PYTHON) -c "import os; print(min(os.cpu_count() or 1, 8))")

BIN := $(VENV)/bin
RUN := $(BIN)/python
CPP := $(shell git ls-files '*.cpp' '*.h' '*.cu' '*.cuh' 2>/dev/null)
BUILT_FROM := $(shell find csrc cmake -type f) CMakeLists.txt setup.py pyproject.toml

.DEFAULT_GOAL := help
.PHONY: help build test lint format bench demo docs gpu carry gate sanitize clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "  make %-10s %s\n", $$1, $$2}'

build: $(VENV)/.built  ## create .venv, install what is needed, compile, install the package in place

$(VENV)/.created: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade "pip>=25.1"
	$(RUN) -m pip install --quiet --group lint
	touch $@

$(VENV)/.requirements: $(VENV)/.created
	$(RUN) -m pip install --quiet $(TORCH) $(TRITON)
	$(RUN) -m pip install --quiet --group build
	$(RUN) -m pip install --quiet --no-build-isolation --editable ".[test]"
	touch $@

$(VENV)/.built: $(VENV)/.requirements $(BUILT_FROM)
	$(RUN) -m pip install --quiet --no-build-isolation --no-deps --editable .
	touch $@

test: build  ## run the whole test suite
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(JOBS) --dist loadgroup $(TESTS) $(ARGS)

lint: $(VENV)/.created  ## check style and format of Python and C++
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP)

format: $(VENV)/.created  ## mend what lint says about format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

bench: build  ## measure the ops beside their peers; results in out/bench
	$(RUN) -m ptmkernels bench $(BENCH) $(ARGS)

demo: build  ## train a small BERT on real text and show what it learnt; report in out/demo
	$(RUN) -m ptmkernels demo $(ARGS)

docs: build  ## draw the figures, check the links and run the examples of the documentation
	$(RUN) tools/docs.py

gpu: build  ## on a CUDA machine: answers and times of all backends, tests, sanitizers, benchmarks
	$(RUN) tools/gpu_short.py --all --deadline 14400 --commit "$$(git rev-parse --short HEAD)" $(ARGS)

carry: build  ## build for sm_90a what a GPU machine without installation needs, in out/carry
	PTMKERNELS_CUDA_ARCHS=90a-real \
	PYTHONPATH=$$($(RUN) -c "import pathlib, pybind11; print(pathlib.Path(pybind11.__file__).parents[1])") \
	$(BIN)/cmake -S . -B build/carry -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja \
		-DPTMKERNELS_BUILD_CUDA=1 -DPTMKERNELS_BUILD_PYTHON=ON \
		-DPython_EXECUTABLE="$$(command -v $(CARRY_PYTHON))" \
		-DPTMKERNELS_TORCH_INCLUDE="$$($(RUN) tools/torch_headers.py)"
	$(BIN)/cmake --build build/carry
	$(BIN)/cmake --install build/carry --prefix out/carry

gate: build  ## without a GPU, before time on one is spent: symbols, all kernels compiled, a dry run
	$(RUN) tools/gpu_short.py --gate --output out/gate $(ARGS)

sanitize: build  ## run the tests of the kernels under the address and undefined-behaviour sanitizers
	$(RUN) tools/sanitize.py $(ARGS)

clean:  ## remove what was built, keep .venv
	rm -rf build dist out ptmkernels/lib ptmkernels/include ptmkernels/_corpus*.so *.egg-info $(VENV)/.built
