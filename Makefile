# Both commands set up everything they need in .venv; a second run finds it there.
PYTHON ?= python3
BIN := .venv/bin
OFFICIAL_005 := .venv/adabelief-pytorch-0.0.5

.PHONY: demo test test-all distributed soak bench gpu wheel docs docs-serve format clean

demo: .venv/.lab
	$(BIN)/adabelief demo --out demo

test: .venv/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	ADABELIEF_PYTORCH_005=$(OFFICIAL_005) $(BIN)/pytest -n 2 --dist loadgroup

# Every combination of what `make test` tries by turns.
test-all: export ADABELIEF_ALL_WAYS = 1
test-all: test

soak: .venv/.test
	ADABELIEF_SOAK=1000 $(BIN)/pytest tests/torch/test_soak.py
	$(BIN)/python tests/sanitized.py

# All wrappers, classes, ways to step and to store, where `make test` has a sample.
distributed: .venv/.test
	ADABELIEF_DISTRIBUTED=1 $(BIN)/pytest -n 2 --dist loadgroup tests/torch/distributed tests/benchmarks/test_day.py

bench: .venv/.test
	$(BIN)/python benchmarks/step_time.py --out bench
	$(BIN)/python benchmarks/front_ends.py --out bench

# On a bare machine with a GPU, torch, Triton and a C compiler: no .venv, no package index.
gpu:
	PYTHONPATH=src $(PYTHON) benchmarks/gpu.py --out bench/gpu

wheel: .venv/.wheel
	rm -rf dist .venv/wheel
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m twine check --strict dist/*
	$(PYTHON) -m venv .venv/wheel
	.venv/wheel/bin/python -m pip install --disable-pip-version-check --progress-bar off dist/*.whl
	.venv/wheel/bin/python tests/wheel.py

# The site, strictly: a broken link or an undocumented public name fails.
docs: .venv/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

docs-serve: .venv/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

format: .venv/.test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.lab: pyproject.toml setup.py $(wildcard src/adabelief/*/*.[ch]) | .venv/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -e '.[lab]'
	touch $@

.venv/.test: pyproject.toml .venv/.lab
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -e '.[test]'
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --upgrade --target $(OFFICIAL_005) adabelief-pytorch==0.0.5
	touch $@

.venv/.docs: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -e '.[docs]'
	touch $@

.venv/.wheel: | .venv/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off build twine
	touch $@

clean:
	rm -rf .venv demo bench dist site
