"""What a training run leaves on disk: models after each epoch, the final one, and what resume needs."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lib.engine.models import LoadedModel, save
from lib.paths import read_json, write_json

REFERENCE = "reference"


def drop_state(folder: Path) -> None:
    """Remove what a run would go on from: it has ended, or will not be taken up again."""
    for state in [*folder.glob("state-*"), folder / REFERENCE]:
        shutil.rmtree(state, ignore_errors=True)


def trained(model: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    """Weights that training changes, by name: all of them, or the adapters."""
    return [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]


class Checkpoints:
    """Folders of a run: ``step-<n>`` after each epoch, ``final`` at the end, ``state-<n>`` to go on from.

    ``reference`` keeps what a run computed before its first step, where its loss needs such a thing.
    """

    def __init__(self, folder: Path, mark: str, describe: Callable[[int | None], dict[str, Any]] | None) -> None:
        self.folder, self.mark, self.describe = folder, mark, describe
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".writing-*"):
            shutil.rmtree(leftover)

    def _write(self, name: str, fill: Callable[[Path], None]) -> None:
        """Write a folder under another name and rename it: it is there whole or not at all."""
        if (self.folder / name).exists():
            return  # written before a kill by this very run, hence the same
        temporary = Path(tempfile.mkdtemp(dir=self.folder, prefix=".writing-"))
        try:
            temporary.chmod(0o755)
            fill(temporary)
            temporary.rename(self.folder / name)
        except SafetensorError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise OSError(f"{self.folder / name} cannot be written: {error}") from error
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def save_model(self, loaded: LoadedModel, name: str, step: int | None) -> str:
        def fill(target: Path) -> None:
            save(loaded, target)
            if self.describe is not None:
                write_json(target / "tuned.json", self.describe(step))

        self._write(name, fill)
        return name

    def save_state(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, step: int, n_tokens: int) -> None:
        moments = {
            f"{index}.{name}": value.contiguous()
            for index, entry in optimizer.state_dict()["state"].items()
            for name, value in entry.items()
        }

        def fill(target: Path) -> None:
            weights = {name: value.detach().contiguous() for name, value in trained(model)}
            save_file(weights, target / "model.safetensors")
            save_file(moments, target / "optimizer.safetensors")
            write_json(target / "state.json", {"step": step, "n_tokens": n_tokens, "signature": self.mark})

        older = list(self.folder.glob("state-*"))
        self._write(f"state-{step}", fill)
        for folder in older:
            if folder.name != f"state-{step}":
                shutil.rmtree(folder)

    def load_state(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, int]:
        """Put weights and moments back; steps done and tokens seen (0, 0 for a fresh start)."""
        states = sorted(self.folder.glob("state-*"), key=lambda path: int(path.name.removeprefix("state-")))
        if not states:
            return 0, 0
        folder = states[-1]
        about = self._read_own(folder / "state.json")
        saved = load_file(folder / "model.safetensors")
        with torch.no_grad():
            for name, parameter in trained(model):
                parameter.copy_(saved[name])
        state = optimizer.state_dict()
        state["state"] = {}
        for key, value in load_file(folder / "optimizer.safetensors").items():
            index, name = key.split(".", 1)
            state["state"].setdefault(int(index), {})[name] = value
        optimizer.load_state_dict(state)
        return int(about["step"]), int(about["n_tokens"])

    def save_reference(self, values: Mapping[str, torch.Tensor]) -> None:
        def fill(target: Path) -> None:
            save_file(dict(values), target / "reference.safetensors")
            write_json(target / "reference.json", {"signature": self.mark})

        self._write(REFERENCE, fill)

    def load_reference(self) -> dict[str, torch.Tensor] | None:
        """What `save_reference` kept; None if there is nothing yet."""
        folder = self.folder / REFERENCE
        if not folder.exists():
            return None
        self._read_own(folder / "reference.json")
        loaded: dict[str, torch.Tensor] = load_file(folder / "reference.safetensors")
        return loaded

    def _read_own(self, path: Path) -> dict[str, Any]:
        """A record that says which run it belongs to; refused if to another one."""
        about: dict[str, Any] = read_json(path)
        if about["signature"] != self.mark:
            raise ValueError(
                f"{self.folder} holds another run (other rows, base or settings); give this one a folder of its own"
            )
        return about
