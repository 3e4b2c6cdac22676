# The commands of this project; `make` alone lists them. All of them are called from this folder.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help figures test lab serve bench clients sync references publish clean clean-data clean-venv set-up

VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.installed
STUDY ?=
PRESET ?= laptop
SEEDS ?=
PORT ?= 8080
# Kernels, bars and threads as in every test and in the committed outputs; no key of the user's.
QUIET := env -u OPENAI_API_KEY -u OPENAI_BASE_URL -u OPENAI_ORG_ID -u OPENAI_PROJECT_ID \
	TQDM_DISABLE=1 OMP_NUM_THREADS=1 PYTHONHASHSEED=0
TEST_HOME := data/runs/.test
# Says in one line what is missing, and lets the next call install it.
CHECKED := $(PY) -P lib/set_up.py --check
# Lets what make starts end with make, however make ends.
WATCHED := TUNING_FORK_WATCH=$$PPID

help:
	@echo 'make figures      set up, build the base models, run the studies, write their figures'
	@echo '                  (STUDY=reversal one study, PRESET=tiny|laptop|paper, SEEDS=3 repetitions)'
	@echo 'make test         everything that is checked: lint, types, unit tests, notebooks'
	@echo 'make lab          JupyterLab on the notebooks; a .py opens as a notebook'
	@echo 'make serve        the API on http://127.0.0.1:8080/v1 (PORT=8080)'
	@echo 'make bench        how fast training, scoring, tuning and blended text are here'
	@echo 'make clients      the LM Evaluation Harness and Inspect against the API (installs both; not in make test)'
	@echo 'make sync         write each notebook .py into its .ipynb'
	@echo 'make references   execute in place the notebooks whose source changed'
	@echo 'make publish      copy the figures of a SEEDS=3 run to figures/ and fill the README table'
	@echo 'make clean        remove caches; make clean-venv also what was installed'
	@echo 'make clean-data   remove all runs and models (data/runs, data/store)'

figures: $(READY)
	@$(CHECKED)
	@$(WATCHED) $(PY) -m lib.workflow $(STUDY) --preset $(PRESET) $(if $(SEEDS),--seeds $(SEEDS)) \
		$(if $(PROFILE),--profile $(PROFILE))

test: $(READY)
	@$(CHECKED)
	@$(WATCHED) $(PY) -m lib.workflow --bases fork-300k fork-1m
	@echo '[3/4] lint, types, unit tests (about 7 min)'
	@$(PY) -m ruff check
	@$(PY) -m ruff format --check --quiet || { echo 'some files are not formatted: ruff format'; exit 1; }
	@$(PY) -m mypy
	@rm -rf $(TEST_HOME) && mkdir -p $(TEST_HOME)/store data/store/bases && ln -s "$$(pwd)/data/store/bases" $(TEST_HOME)/store/bases
	@$(QUIET) $(PY) -m pytest -q --doctest-modules --disable-socket --allow-unix-socket --allow-hosts=127.0.0.1,::1 tests/server tests/lib lib tuning_server
	@echo '[4/4] every notebook, in stage order, against its committed outputs (about 4 min)'
	@$(QUIET) TUNING_FORK_RUNS="$$(pwd)/$(TEST_HOME)" TUNING_FORK_STORE="$$(pwd)/$(TEST_HOME)/store" \
		$(PY) -m pytest -q --durations=5 --nbval --nbval-sanitize-with tests/notebooks/sanitize.cfg tests/notebooks notebooks
	@echo 'all tests passed'

lab: $(READY)
	@$(CHECKED)
	@$(PY) -m lib.lab

serve: $(READY)
	@$(PY) -m tuning_server serve --port $(PORT)

bench: $(READY)
	@$(WATCHED) $(PY) -m lib.workflow --bases fork-300k fork-1m
	@echo 'speeds against plain references (about 7 min; best with nothing else at work; THREADS=2 for two threads)'
	@BENCH_THREADS=$(THREADS) TQDM_DISABLE=1 $(PY) -m pytest -q tests/bench

clients: $(READY)
	@$(WATCHED) $(PY) -m lib.workflow --bases fork-300k
	@$(QUIET) tests/clients/run

sync: $(READY)
	@$(PY) -m jupytext --quiet --update --to ipynb $(sort $(wildcard notebooks/*.py notebooks/*/*.py))

references: sync
	@$(WATCHED) $(PY) -m lib.workflow --bases fork-300k
	@$(QUIET) $(WATCHED) $(PY) -m lib.references $(STUDY)

publish: $(READY)
	@$(PY) -m lib.publish $(STUDY)

clean:
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .snakemake $(TEST_HOME)
	@find lib tests notebooks -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf

clean-data:
	@if [ -x $(PY) ]; then $(PY) -m lib.clean; else rm -rf data/runs data/store; fi

clean-venv: clean
	@rm -rf $(VENV)

$(READY): requirements.txt pyproject.toml lib/set_up.py
	@for name in $(PYTHON) python3.11 python3.12 python3.13 python3; do \
		if $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then found=$$name; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "Python 3.11 or newer is needed, found $$(python3 --version 2>&1 | head -1): install it, or make PYTHON=/path/to/it"; \
		exit 1; \
	fi; \
	exec $$found -P lib/set_up.py

set-up: $(READY)
