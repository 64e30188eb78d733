# Everything here needs only Python 3.10 or newer; the rest is installed into .venv.
# Another Python: make test PYTHON=python3.13   Another place: make test VENV=/path/to/venv
# Tests run on up to 8 cores, one thread each; PROCESSES=0: one after another in one process, which pdb needs.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
PROCESSES ?= auto

BIN := $(VENV)/bin
QUESTION ?= When do I get my refund?
RECIPE ?= recipes/customer_service.yaml

.DEFAULT_GOAL := help
.PHONY: help quickstart test lint format docs reference constraints clean

help:  ## what can be made
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' Makefile | while IFS='	' read -r name text; do printf '  make %-12s %s\n' "$$name" "$$text"; done

quickstart: $(VENV)/installed  ## fine-tune the customer service bot, score it, ask it a question
	$(BIN)/gptft finetune $(RECIPE)
	$(BIN)/gptft eval --metric bleu
	$(BIN)/gptft chat --message "$(QUESTION)"

test: $(VENV)/installed-dev  ## run the tests; some of them: make test ARGS="tests/recipe -x"
	$(BIN)/python -m pytest --numprocesses $(PROCESSES) --maxprocesses 8 --dist loadfile $(ARGS)

lint: $(VENV)/installed-dev  ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/installed-dev  ## repair style and format where that is safe
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: reference $(VENV)/installed-docs  ## build the site of the documentation into site/
	$(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html"

reference: $(VENV)/installed-dev  ## write the generated files: the references and the JSON schema
	$(BIN)/python docs/generate_reference.py
	$(BIN)/python docs/generate_commands.py
	$(BIN)/gptft recipes schema > $(VENV)/recipe.schema.json
	mv $(VENV)/recipe.schema.json recipes/recipe.schema.json

# uv alone resolves for several Pythons at once. Its markers that are true wherever gptft runs, and the packages that
# torch pins for NVIDIA hardware, are left out. torch itself is raised by hand: speed and figures are those of one torch.
constraints: $(VENV)/installed-dev  ## raise the pins of constraints.txt, all but torch
	$(BIN)/python -m pip install --quiet uv
	grep '^torch==' constraints.txt > $(VENV)/held.txt
	$(BIN)/uv pip compile pyproject.toml --extra dev --extra browser --extra docs --universal --python-version 3.10 \
		--upgrade --quiet --no-header --no-annotate --constraint $(VENV)/held.txt --output-file $(VENV)/resolved.txt
	sed -n '/^#/p;/^$$/q' constraints.txt > $(VENV)/constraints.txt
	echo >> $(VENV)/constraints.txt
	grep -vE '^(nvidia-|cuda-|triton=)|emscripten.*emscripten|== .emscripten|< .3\.10\.' $(VENV)/resolved.txt \
		| sed -E -e "s/ (and|;) sys_platform != 'emscripten'//" -e '/^hf-xet=/s/ ;.*//' \
			-e "s/ ; python_full_version (<|>=|==) '([0-9.]+[0-9])(\.\*)?'/; python_version \1 \"\2\"/" >> $(VENV)/constraints.txt
	mv $(VENV)/constraints.txt constraints.txt

clean:  ## remove .venv and what tools leave; runs stay
	rm -rf $(VENV) build dist site .pytest_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "gptft needs Python 3.10 or newer, but $(PYTHON) is not: make ... PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing gptft into $(VENV), which takes some minutes the first time"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing gptft and its tools into $(VENV), which takes some minutes the first time"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@ $(VENV)/installed

$(VENV)/installed-docs: $(VENV)/installed-dev
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@
