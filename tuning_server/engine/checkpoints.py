"""What a training run keeps on disk, in the folder of the run.

- ``step-<n>/`` the model after each epoch, ``final/`` the one at the end; ``tuned.json`` in them says what they are
- ``state-<n>/`` weights, moments of the optimiser and counts after step n, from which the run resumes; one at a time
- ``.writing-*`` and ``.gone-*`` what a kill left half written or half deleted

Each is there whole or not at all. A state carries the signature of its run, and no other run takes it. Of several
processes that train together, the first one writes, and the others wait for it.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tuning_server.disk import read_json, write_json
from tuning_server.engine.folders import GONE, WRITING, drop, states
from tuning_server.engine.models import LoadedModel, about, save, sizes
from tuning_server.engine.steps import Tensors

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)


class Checkpoints:
    """The folder of a run."""

    def __init__(
        self,
        folder: Path,
        signature: str,
        describe: Callable[[int | None], dict[str, Any]] | None,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.folder, self.signature, self.describe, self._accelerator = folder, signature, describe, accelerator
        with self._writing() as is_writer:
            if is_writer:
                folder.mkdir(parents=True, exist_ok=True)
                for leftover in [*folder.glob(f"{WRITING}*"), *folder.glob(f"{GONE}*")]:
                    shutil.rmtree(leftover, ignore_errors=True)

    @contextmanager
    def _writing(self) -> Iterator[bool]:
        """Whether this process is the one that writes; in the end, all of them wait for it."""
        yield self._accelerator is None or self._accelerator.is_main_process
        if self._accelerator is not None:
            self._accelerator.wait_for_everyone()

    def _write(self, name: str, fill: Callable[[Path], None]) -> None:
        """Write a folder under another name and rename it: it is there whole or not at all."""
        with self._writing() as is_writer:
            if not is_writer or (self.folder / name).exists():
                return  # what is there was written before a kill by this very run, hence the same
            with TemporaryDirectory(dir=self.folder, prefix=WRITING, ignore_cleanup_errors=True) as temporary:
                Path(temporary).chmod(0o755)
                try:
                    fill(Path(temporary))
                except SafetensorError as error:
                    raise OSError(f"{self.folder / name} cannot be written: {error}") from error
                Path(temporary).rename(self.folder / name)

    def save_model(self, loaded: LoadedModel, name: str, step: int | None, weights: Tensors | None = None) -> str:
        """Write the model, its weights being those of `weights` where these are given; returns `name`."""

        def fill(target: Path) -> None:
            save(loaded, target, weights)
            if self.describe is not None:
                card = self.describe(step)
                facts = about(card["id"], target)
                card |= {"fingerprint": facts["fingerprint"], "about": facts, "sizes": sizes(target)}
                write_json(target / "tuned.json", card)

        self._write(name, fill)
        return name

    def save_state(self, weights: Tensors, moments: Tensors, step: int, n_tokens: int) -> None:
        """Write what `load_state` returns."""

        def fill(target: Path) -> None:
            save_file(weights, target / "model.safetensors")
            save_file(moments, target / "optimizer.safetensors")
            write_json(target / "state.json", {"step": step, "n_tokens": n_tokens, "signature": self.signature})

        self._write(f"state-{step}", fill)
        for folder in states(self.folder):
            if folder.name != f"state-{step}":
                drop(folder)

    def load_state(self) -> tuple[Tensors, Tensors, int, int] | None:
        """Weights and moments (see `Stepper.state`), steps done and tokens seen; None for a fresh start.

        A state that was damaged (by a power failure, say) is dropped: what it stood for is trained again.

        Raises
        ------
        ValueError
            If another run left it.
        """
        for folder in reversed(states(self.folder)):
            try:
                saved, moments = (load_file(folder / f"{name}.safetensors") for name in ("model", "optimizer"))
                about = read_json(folder / "state.json")
            except (SafetensorError, OSError, ValueError) as error:
                logger.warning("%s cannot be read and is dropped: %s", folder, error)
                drop(folder)
                continue
            if about["signature"] != self.signature:
                raise ValueError(
                    f"{self.folder} holds another run (of other rows or settings): delete it or choose another folder"
                )
            return saved, moments, int(about["step"]), int(about["n_tokens"])
        return None
