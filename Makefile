# make demo: an environment, then the main job on what is bundled. make test: the same environment, then the tests.
PYTHON ?= python3
BIN := .venv/bin
# a process per core, which take tests from each other at the end; threads that spin would take the others' cores; of the
# hundreds of processes that tests start none compiles Python again
TESTS := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --numprocesses auto --dist worksteal

.PHONY: demo test test-fast lint

demo: .venv/installed
	cp examples/cat.png cat.png
	$(BIN)/mnv1 export --format onnx,torchscript --quantize int8
	$(BIN)/mnv1 bench --provider CPUExecutionProvider --threads 1,2 artifacts/*.onnx artifacts/*.pt pytorch
	$(BIN)/mnv1 predict cat.png examples/*.*g examples/*.webp

test: .venv/installed
	$(TESTS)

test-fast: .venv/installed
	$(TESTS) -m "not slow"

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --editable '.[dev]'
	touch $@
