"""Read and write the datasets of several fine-tunes as published: ``finetune_01`` and on, and a manifest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from lib import paths
from lib.functions.documents import Document
from lib.functions.files import write_finetune

OURS = "tuning_fork"  # key of finetune.yaml for what the published form has no place for


class Tuned(Protocol):
    """A dataset of one fine-tune."""

    @property
    def id(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def train(self) -> Sequence[Document]: ...
    @property
    def validation(self) -> Sequence[Document]: ...


Dataset = TypeVar("Dataset", bound=Tuned)


@dataclass(frozen=True, kw_only=True)
class Description:
    """What is written beside the rows of a fine-tune.

    Attributes
    ----------
    suffix : of the model's name, which begins the names of the files
    config : of ``finetune.yaml``, all but its ``finetune``
    test_config : ``dataset`` of ``test_config.yaml``
    form : ``chat`` or ``completion``, of the files that are trained on
    """

    suffix: str
    config: Mapping[str, Any]
    test_config: Mapping[str, Any]
    form: str


def write_finetunes(
    folder: Path,
    datasets: Mapping[int, Dataset],
    describe: Callable[[Dataset, int], Description],
    *,
    about: Mapping[str, Any],
    finetune: Mapping[str, Any] | None = None,
    replace: bool = False,
) -> Path:
    """Write every dataset as ``finetune_NN/``, and `manifest.json`, into a folder that appears whole or not at all.

    Parameters
    ----------
    datasets : by seed
    describe : of a dataset and its number, from 1 on
    about : what `manifest.json` says before the seeds: the study, and what else holds for all of them
    finetune : ``model`` and ``hyperparams`` for ``finetune.yaml``
    replace : put it in the place of another dataset

    Raises
    ------
    ValueError
        If the folder holds something else and is not to be replaced.
    """
    given = finetune or {}

    def fill(draft: Path) -> None:
        seeds = {}
        for number, (seed, dataset) in enumerate(datasets.items(), start=1):
            told = describe(dataset, number)
            asked = {"model": given.get("model", ""), "hyperparams": dict(given.get("hyperparams", {}))}
            asked |= {"suffix": told.suffix, "test_config": "test_config.yaml"}
            files = write_finetune(
                draft / f"finetune_{number:02d}",
                suffix=told.suffix,
                config={"finetune": asked, **told.config},
                test_config={"dataset": told.test_config},
                train=dataset.train,
                validation=dataset.validation,
                form=told.form,
            )
            seeds[str(seed)] = {
                "training_file": str(files[0].relative_to(draft)),
                "validation_file": str(files[1].relative_to(draft)),
                "dataset": dataset.id,
                "n_rows": {"train": len(dataset.train), "validation": len(dataset.validation)},
            }
        found = sorted(path for path in draft.rglob("*") if path.is_file())
        hashes = {str(path.relative_to(draft)): paths.file_hash(path, length=64) for path in found}
        paths.write_json(draft / "manifest.json", {**about, "seeds": seeds, "sha256": hashes})

    return paths.write_folder(folder, fill, replace=replace)


def training_files(folder: Path) -> dict[int, tuple[Path, Path]]:
    """Training and validation file of each seed in a folder that `write_finetunes` wrote."""
    seeds = paths.read_json(folder / "manifest.json")["seeds"]
    return {
        int(seed): (folder / about["training_file"], folder / about["validation_file"]) for seed, about in seeds.items()
    }


def read_finetunes(folder: Path, read: Callable[[Path], Dataset], *, study: str) -> dict[int, Dataset]:
    """Read the fine-tunes in a folder (or the one that it is), by their seed.

    Parameters
    ----------
    read : reads one ``finetune_NN`` folder
    study : named where there is none

    Raises
    ------
    ValueError
        If there is none, or two have one seed.
    """
    places = [folder] if (folder / "finetune.yaml").is_file() else sorted(folder.glob("finetune_*/"))
    places = [place for place in places if (place / "finetune.yaml").is_file()]
    if not places:
        raise ValueError(f"{folder} holds no fine-tune of the {study} study: expected finetune_NN/finetune.yaml")
    found: dict[int, Dataset] = {}
    for place in places:
        dataset = read(place)
        if dataset.seed in found:
            raise ValueError(f"{place}: seed {dataset.seed} is another fine-tune's too; give the folder of one of them")
        found[dataset.seed] = dataset
    return found
