# make up: the whole lake on this machine; make test: its tests. `make help` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
ARGS ?=

.PHONY: help up down reset status test proof docs pictures lint format lock bench clean

help: ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/.installed: requirements.lock requirements-dev.lock pyproject.toml setup.cfg scripts/install.sh
	@PYTHON=$(PYTHON) scripts/install.sh $(VENV)
	@touch $@

up: $(VENV)/.installed ## bring everything up (ARGS="--once", "--seed-from DUMP", ...)
	@$(BIN)/upsell up $(ARGS)

down: $(VENV)/.installed ## stop what runs
	@$(BIN)/upsell down

reset: $(VENV)/.installed ## stop, and delete all local state
	@$(BIN)/upsell reset --yes

status: $(VENV)/.installed ## rows, versions and lag of every table
	@$(BIN)/upsell status

# Exit code 5: ARGS choose none of these.
test: $(VENV)/.installed ## run the tests (ARGS are pytest's)
	@$(BIN)/python -m pytest -m "not alone" --numprocesses logical --maxprocesses 4 --dist loadfile \
		--no-loadscope-reorder $(ARGS) || [ $$? -eq 5 ]
	@$(BIN)/python -m pytest -m alone $(ARGS) || [ $$? -eq 5 ]

proof: $(VENV)/.installed ## try the laws as often as docs/reliability.md says, and write its table (ARGS=WORD: some)
	@UPSELL_PROOF=$${UPSELL_PROOF:-1} $(BIN)/python upsell_assets_tests/proof.py $(ARGS)

docs: $(VENV)/.installed ## write docs/features.md from the comments of the .sql files
	@$(BIN)/python scripts/features_page.py

pictures: $(VENV)/.installed ## write docs/images from the web interface of a lake of its own
	@$(BIN)/python -m pytest upsell_assets_tests/end_to_end/test_end_to_end_browser.py && $(BIN)/python scripts/pictures.py

lint: $(VENV)/.installed ## ruff and mypy
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: $(VENV)/.installed ## ruff, in place
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

lock: ## resolve the dependencies anew, with hashes and without any index
	@scripts/lock.sh

bench: $(VENV)/.installed ## every benchmark; make bench-NAME runs one
	@for file in benchmarks/bench_*.py; do $(BIN)/python $$file || exit 1; done

bench-%: $(VENV)/.installed
	@$(BIN)/python benchmarks/bench_$*.py $(ARGS)

clean: ## delete the environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build *.egg-info
