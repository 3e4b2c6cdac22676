# Which stage needs what. Snakemake decides only whether a stage is run; lib.run runs it.
#   make figures                     the same under one lock, for most people
#   snakemake --cores 2 --config studies=reversal preset=laptop seeds=3
#   snakemake --profile profiles/slurm
import os
import sys

from lib.console import expected_seconds
from lib.keys import home, stages, studies
from lib.params import bases_of, presets, resolve
from lib.parent import WATCH, end_with_parents
from lib.paths import ROOT, runs_root, store_root

end_with_parents()  # before the line below: Snakemake looks up to make, and the stages to Snakemake
os.environ.setdefault(WATCH, str(os.getpid()))

PRESET = str(config.get("preset") or "laptop")
SEEDS = int(config["seeds"]) if config.get("seeds") else None
WANTED = str(config.get("studies") or "").split() or [study for study in studies() if PRESET in presets(study)]
PYTHON = f"{sys.executable} -m"


def near(path):
    """A path as it is written from the root, where it lies below it."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def files(folder, pattern):
    return sorted(near(path) for path in folder.rglob(pattern) if path.is_file())


RUNS, BASES = near(runs_root()), near(store_root() / "bases")
LIB = files(ROOT / "lib", "*.py")
OVERVIEW = home() / "notebooks" / "00-overview.ipynb"
values = {study: resolve(study, PRESET, {"n_seeds": SEEDS} if SEEDS else None) for study in WANTED}
seconds = {study: sum(expected_seconds(path, PRESET) for path in stages(study)) for study in WANTED}
cheap_first = sorted(WANTED, key=seconds.get)
manifests = [
    f"{RUNS}/{PRESET}/{study}/{path.stem[:2]}.manifest.json" for study in cheap_first for path in stages(study)
]


rule all:
    default_target: True
    input:
        manifests,
        f"{RUNS}/{PRESET}/00-overview.ipynb" if OVERVIEW.exists() else [],


rule base:
    input:
        code=[near(ROOT / "lib/base.py"), near(ROOT / "lib/sources/corpus.py"), *files(ROOT / "lib/world", "*.py")],
        words=files(ROOT / "data/world", "*.*"),
    output:
        f"{BASES}/{{name}}.json",
    wildcard_constraints:
        name=r"fork-\d+[km]",
    threads: workflow.cores or 2
    priority: len(WANTED) + 1
    shell:
        PYTHON + " lib.base {wildcards.name}"


for place, study in enumerate(cheap_first):
    for k, notebook in enumerate(stages(study)):
        folder = f"{RUNS}/{PRESET}/{study}"
        preset_file = home() / "params" / study / f"{PRESET}.yaml"

        rule:
            name: f"{study}_{notebook.stem}".replace("-", "_")
            input:
                notebook=near(notebook),
                preset=near(preset_file) if preset_file.exists() else [],
                before=f"{folder}/{stages(study)[k - 1].stem[:2]}.manifest.json" if k else [],
                bases=[f"{BASES}/{name}.json" for name in bases_of(values[study])],
                sources=files(ROOT / "data" / study, "*.*"),
                lib=LIB,
            output:
                f"{folder}/{notebook.stem[:2]}.manifest.json",
            params:
                # What makes the stage stale when it is another: all values, so also another SEEDS.
                values=values[study],
                words=f"{study} --preset {PRESET} --stage {notebook.stem[:2]}" + (f" --seeds {SEEDS}" if SEEDS else ""),
            threads: workflow.cores or 2
            priority: len(WANTED) - place
            shell:
                PYTHON + " lib.run {params.words}"


rule overview:
    input:
        notebook=near(OVERVIEW),
        studies=manifests,
        lib=LIB,
        published=files(ROOT / "figures", "*.*"),
    output:
        f"{RUNS}/{PRESET}/00-overview.ipynb",
    shell:
        PYTHON + f" lib.run 00-overview --preset {PRESET}"
