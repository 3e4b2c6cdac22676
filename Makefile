# The commands of this project; `make` alone lists them. All of them are called from this folder.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help figures test lab serve bench clients cluster-test sync publish docs clean clean-data clean-venv set-up

VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.installed
STUDY ?=
PRESET ?= laptop
# The published runs have three seeds; one is enough to see the effect, in a third of the time.
SEEDS ?= $(if $(filter laptop smollm2,$(PRESET)),1)
PORT ?= 8080
# Kernels, bars and threads as in every test and in the committed outputs; no key of the user's; imports of this folder.
QUIET := env -u OPENAI_API_KEY -u OPENAI_BASE_URL -u OPENAI_ORG_ID -u OPENAI_PROJECT_ID \
	TQDM_DISABLE=1 OMP_NUM_THREADS=1 PYTHONHASHSEED=0 PYTHONPATH="$$(pwd)"
TEST_HOME := data/runs/.test

# Refuse a misspelt study or preset before anything is installed.
STUDIES := $(patsubst notebooks/%/,%,$(wildcard notebooks/*/))
$(foreach study,$(STUDY),$(if $(filter $(study),$(STUDIES)),,$(error no study '$(study)'; there are: $(STUDIES))))
$(foreach study,$(STUDY),$(if $(filter tiny,$(PRESET))$(wildcard params/$(study)/$(PRESET).yaml),,$(error \
	$(study) has no preset '$(PRESET)'; it has: tiny $(basename $(notdir $(wildcard params/$(study)/*.yaml))))))

# Snakemake with a target and configuration. One at a time works in a folder, under flock(1) where there is one: the
# system frees that lock when its holder is killed; Snakemake's own would have to be removed by hand.
FLOCK := $(shell command -v flock)
snakemake = [ -w . ] || { echo "$$(pwd) cannot be written, and make keeps its records in it: copy it to where it can"; exit 1; }; \
	mkdir -p .snakemake; \
	$(if $(FLOCK),exec 9>.snakemake/make.lock; \
	flock -n 9 || { echo 'another make is running in this folder: waiting for it'; flock 9; };) \
	$(PY) -m snakemake $(1) $(if $(PROFILE),--profile $(PROFILE),--cores all) $(if $(FLOCK),--nolock) \
	--rerun-incomplete --keep-going --quiet all \
	|| { echo 'not everything was made: see above and .snakemake/log; the same command continues'; exit 1; }

help:
	@echo 'make figures      set up, build the base models, run the studies, write their figures'
	@echo '                  (STUDY=reversal one study, PRESET=tiny|laptop|paper, SEEDS=3 repetitions)'
	@echo 'make test         everything that is checked: lint, types, unit tests, notebooks'
	@echo 'make lab          JupyterLab on the notebooks; a .py opens as a notebook (ARGS="--no-browser --port 8889")'
	@echo 'make serve        the API on http://127.0.0.1:8080/v1 (PORT=8080)'
	@echo 'make bench        how fast training, sampling, scoring and blending are here (docs/performance.md)'
	@echo 'make clients      the LM Evaluation Harness and Inspect against the API, the client against vLLM (not in make test)'
	@echo 'make cluster-test studies on a SLURM of three nodes on this machine (Debian, as root; not in make test)'
	@echo 'make sync         write each notebook .py into its .ipynb'
	@echo 'make publish      run the studies as published (SEEDS=3; STUDY=reversal one), and fill notebooks, figures/'
	@echo '                  and the README table with what came out'
	@echo 'make docs         the documentation as a site with all notebooks, in data/site (installs MkDocs)'
	@echo 'make clean        remove caches; make clean-venv also what was installed'
	@echo 'make clean-data   remove all runs and models (data/runs, data/store)'

figures: $(READY)
	@$(call snakemake,--config preset=$(PRESET) studies="$(STUDY)" seeds=$(SEEDS) $(if $(PROFILE),ahead=1))
	@echo 'figures:'
	@runs="$${TUNING_FORK_RUNS:-data/runs}/$(PRESET)"; ls -1 "$$runs"/*/figures/*.png "$$runs"/00-overview.ipynb

test: $(READY)
	@$(call snakemake,bases --config bases="fork-300k fork-1m")
	@echo 'lint, types, unit tests'
	@$(PY) -m ruff check
	@$(PY) -m ruff format --check --quiet || { echo 'some files are not formatted: ruff format'; exit 1; }
	@$(PY) -m mypy
	@rm -rf $(TEST_HOME) && mkdir -p $(TEST_HOME)/store data/store/bases && ln -s "$$(pwd)/data/store/bases" $(TEST_HOME)/store/bases
	@$(QUIET) $(PY) -m pytest -q -n 2 --dist loadfile --doctest-modules --disable-socket --allow-unix-socket \
		--allow-hosts=127.0.0.1,::1 tests/server tests/lib lib tuning_server
	@echo 'every notebook at preset tiny, in stage order, and the numbers that come out'
	@$(QUIET) TUNING_FORK_RUNS="$$(pwd)/$(TEST_HOME)" TUNING_FORK_STORE="$$(pwd)/$(TEST_HOME)/store" \
		$(PY) -m pytest -q --durations=5 --nbval-lax --nbval-current-env $(TEST_HOME)/notebooks tests/notebooks
	@echo 'all tests passed'

# JupyterLab with a .py opened as a notebook, tidy saves, and the kernel and imports of this folder.
lab: $(READY)
	@mkdir -p $(VENV)/share/jupyter/lab/settings
	@echo '{"@jupyterlab/docmanager-extension:plugin": {"defaultViewers": {"python": "Jupytext Notebook"}},' \
		'"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": false}}' \
		> $(VENV)/share/jupyter/lab/settings/overrides.json
	@export PYTHONPATH="$$(pwd)" JUPYTER_PATH="$$(pwd)/$(VENV)/share/jupyter:$$JUPYTER_PATH"; \
		XDG_CONFIG_DIRS="$$(pwd):$${XDG_CONFIG_DIRS:-/etc/xdg}" exec $(PY) -m jupyterlab \
		$(if $(filter 0,$(shell id -u)),--allow-root) $(ARGS) \
		--ServerApp.root_dir="$$(pwd)/notebooks" --FileContentsManager.pre_save_hook=tools.committed.pre_save

serve: $(READY)
	@$(PY) -m tuning_server serve --port $(PORT)

bench: $(READY)
	@$(call snakemake,bases --config bases="fork-1m smollm2-135m")
	@echo 'speeds against other ways of doing the same (about 15 min; best with nothing else running)'
	@TQDM_DISABLE=1 PYTHONPATH="$$(pwd)" $(PY) tests/bench/bench.py $(if $(THREADS),--threads $(THREADS)) --out docs/performance.md
	@echo 'how the cost of the server grows'
	@TQDM_DISABLE=1 PYTHONPATH="$$(pwd)" $(PY) tests/bench/growth.py --out docs/performance.md

clients: $(READY)
	@$(call snakemake,bases --config bases="fork-300k fork-1m smollm2-135m")
	@$(QUIET) tests/clients/run

cluster-test: $(READY)
	@$(call snakemake,bases --config bases="fork-300k fork-1m")
	@echo 'three studies on a SLURM of three nodes on this machine (Debian, as root; installs slurm and postgresql)'
	@$(PY) -m pytest -q -s tests/cluster

sync: $(READY)
	@$(PY) -m jupytext --quiet --update --to ipynb $(sort $(wildcard notebooks/*.py notebooks/*/*.py))
	@PYTHONPATH="$$(pwd)" $(PY) -m tools.committed $(sort $(wildcard notebooks/*.ipynb notebooks/*/*.ipynb))

# The published runs are made, or completed, first; then they are copied.
PUBLISHED = $(or $(STUDY),$(STUDIES))
ON_REAL_MODEL = $(foreach study,$(PUBLISHED),$(if $(wildcard params/$(study)/smollm2.yaml),$(study)))
publish: sync
	@$(call snakemake,--config preset=laptop studies="$(PUBLISHED)" seeds=3)
	@$(if $(ON_REAL_MODEL),$(call snakemake,--config preset=smollm2 studies="$(ON_REAL_MODEL)" seeds=3))
	@$(QUIET) $(PY) -m tools.publish $(PUBLISHED)

docs: $(READY)
	@$(PY) -m pip install --quiet --disable-pip-version-check -r docs/requirements.txt -c requirements.txt
	@NO_MKDOCS_2_WARNING=1 PYTHONPATH="$$(pwd)" $(PY) -m mkdocs build --strict --quiet
	@echo 'the site: data/site/index.html'

clean:
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .snakemake $(TEST_HOME)
	@find lib tuning_server tools tests notebooks -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf

clean-data:
	@if [ -x $(PY) ]; then $(PY) -m tools.clean; else rm -rf data/runs data/store; fi

clean-venv: clean
	@rm -rf $(VENV) .venv-clients .venv-vllm

$(READY): requirements.txt pyproject.toml tools/set-up tools/checkout.pth
	@PYTHON="$(PYTHON)" tools/set-up

set-up: $(READY)
