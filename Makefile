# Two commands do everything from a fresh clone: `make serve` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RECIPE ?= pneumonia-resnet18

.PHONY: help serve test check format train bench readme test-container lock clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.serve: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.test: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[postgres,dimse,openvino,bulk,ray,train,dev]'
	@touch $@ $(VENV)/.serve

serve: $(VENV)/.serve  ## set up and start the service with the bundle that ships
	$(BIN)/cxr serve

test: $(VENV)/.test  ## set up and run all tests
	bash tests/system-packages.sh
	$(BIN)/python -m pytest

check: $(VENV)/.test  ## format, lint, types, then all tests (the import rule is one of them)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MAKE) test

format: $(VENV)/.test  ## let ruff format and fix what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

train: $(VENV)/.test  ## train, judge, export and report RECIPE (default pneumonia-resnet18) on ../shared/data, then its gate
	$(BIN)/python -m training run $(RECIPE)
	run="$$($(BIN)/python -m training fit $(RECIPE))" && $(BIN)/python -m training gate "$$run" --recipe $(RECIPE)

bench: $(VENV)/.test  ## measure this machine; writes the figures between the markers in README.md
	$(BIN)/python -m benchmarks

readme: $(VENV)/.test  ## rewrite the parts of README.md that are made from code
	$(BIN)/python -m benchmarks.readme

test-container: $(VENV)/.test  ## build the image, run docker-compose, ask it for a prediction (needs root; says so and stops elsewhere)
	bash deploy/test-container.sh

lock:  ## resolve the newest allowed versions into constraints.txt (in a throw-away environment)
	bash deploy/lock.sh

clean:  ## remove what the targets made, except the state folder and the runs
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
