"""Jobs that train in processes of their own, started by a launcher such as ``accelerate launch --num_processes 4``.

The server writes ``launch.json`` into the folder of the run, starts ``<launcher> -m tuning_server.launched FOLDER`` and
follows ``reports.jsonl``, to which the first of the processes appends a line per step. ``launch.log`` has what they
print, and ``launch.error`` the first error of any of them. A file ``pause`` asks them to write down the step they are
at and to end; they do so too when the server is gone. The first process holds ``train.lock``, so that processes which a
server left behind and those of the next never write at once.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path

import psutil
from filelock import FileLock

from tuning_server.disk import read_json, write_json
from tuning_server.engine.lora import LoraSettings
from tuning_server.engine.training import Pause, StepReport, TrainingSettings, train
from tuning_server.errors import ApiError
from tuning_server.progress import card_after
from tuning_server.rows import read_rows, tokenise
from tuning_server.store import INTERRUPTED, Row, file_path, method_of
from tuning_server.types import Settings

SPEC, REPORTS, LOG, ERROR, PAUSE, LOCK = (
    "launch.json", "reports.jsonl", "launch.log", "launch.error", "pause", "train.lock"
)  # fmt: skip
POLL_S = 0.02  # between two looks at the reports; samplings wait as long at most
PAUSE_S = 600  # that the processes have to write down the step they are at


def launch(
    server: Settings, folder: Path, settings: TrainingSettings, *, job: Row, card: Row
) -> Generator[StepReport | None, None, None]:
    """Train a job in other processes; what is yielded, and thrown in, is as for `tuning_server.engine.training.train`.

    Parameters
    ----------
    card : what is written beside the weights (see `card_after`)

    Raises
    ------
    ApiError
        If the launcher does not exist, or the processes end early.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in (REPORTS, ERROR, PAUSE):
        (folder / name).unlink(missing_ok=True)
    (folder / REPORTS).touch()
    files = [job[name] and str(file_path(server.store, job[name])) for name in ("training_file", "validation_file")]
    spec = {
        "server": os.getpid(), "weights": str(server.weights), "download": server.download, "files": files,
        "models_dir": server.models_dir and str(server.models_dir), "settings": asdict(settings), "job": job,
        "card": card,
    }  # fmt: skip
    write_json(folder / SPEC, spec)
    with (folder / LOG).open("wb") as log:
        try:
            process = subprocess.Popen(
                [*server.launcher, "-m", "tuning_server.launched", str(folder)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=_environment(),
            )  # fmt: skip
        except OSError as error:
            message = f"The launcher {server.launcher[0]!r} cannot be started ({error.strerror}): see --launcher."
            raise ApiError(message, code="launcher_not_found") from error
    try:
        try:
            yield from _follow(process, folder)
        except Pause:
            (folder / PAUSE).touch()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=PAUSE_S)
            raise
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    for name in (SPEC, REPORTS, ERROR, PAUSE, LOG, LOCK):
        (folder / name).unlink(missing_ok=True)


def _environment() -> dict[str, str]:
    """Programs of this environment come first; how many threads each process has is the launcher's to say."""
    kept = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    return kept | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}


def _follow(process: subprocess.Popen[bytes], folder: Path) -> Generator[StepReport | None, None, None]:
    """Reports of the processes until they end; None while there is nothing new."""
    rest, is_over = b"", False
    with (folder / REPORTS).open("rb") as reports:
        while not is_over:
            is_over = process.poll() is not None
            *lines, rest = (rest + reports.read()).split(b"\n")
            for line in lines:
                yield StepReport(**json.loads(line))
            if not is_over:
                time.sleep(POLL_S)
                yield None
    if process.returncode != 0 or not (folder / "final").exists():
        log = (folder / LOG).read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
        reason = (folder / ERROR).read_text(encoding="utf-8") if (folder / ERROR).exists() else log
        reason = reason[:500] or "they printed nothing"
        message = f"The processes of the launcher ended with exit code {process.returncode}: {reason}"
        raise ApiError(f"{message}. Resume the job to go on from its last state.", code=INTERRUPTED)


def _train(folder: Path) -> None:
    """Train the job of a folder, as one of the processes that a launcher started."""
    import torch
    from accelerate import Accelerator

    from tuning_server.engine.cache import ModelCache

    spec: Row = read_json(folder / SPEC)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    if accelerator.device.type == "cuda":
        torch.cuda.set_device(accelerator.device)
    settings = TrainingSettings(
        **{**spec["settings"], "lora": LoraSettings(**spec["settings"]["lora"]) if spec["settings"]["lora"] else None}
    )
    models_dir = Path(spec["models_dir"]) if spec["models_dir"] else None
    cache = ModelCache(Path(spec["weights"]), models_dir=models_dir, download=spec["download"])
    job, method = spec["job"], method_of(spec["job"])
    loaded = cache.for_training(job["model"], adapters=settings.lora is not None)
    files = [list(tokenise(read_rows(Path(path), method), loaded)) if path else [] for path in spec["files"]]
    lock = FileLock(folder / LOCK)
    if accelerator.is_main_process:
        lock.acquire(timeout=PAUSE_S)
    accelerator.wait_for_everyone()
    steps = train(
        loaded, files[0], settings, folder=folder, validation_rows=files[1], accelerator=accelerator,
        describe=lambda step: card_after(step, job, spec["card"]),
    )  # fmt: skip
    with (folder / REPORTS).open("ab") if accelerator.is_main_process else nullcontext() as reports:
        for report in steps:
            if report is not None and reports is not None:
                reports.write(json.dumps(asdict(report)).encode() + b"\n")
                reports.flush()
            is_asked = accelerator.is_main_process and (
                (folder / PAUSE).exists() or not psutil.pid_exists(spec["server"])
            )
            flag = torch.tensor([int(is_asked)], device=accelerator.device)
            if accelerator.reduce(flag, "sum").item():
                with suppress(Pause, StopIteration):
                    steps.throw(Pause())
                break
    accelerator.end_training()


def main(folder: Path) -> None:
    """Train; the first error of any of the processes is kept, those of the others follow from it."""
    try:
        _train(folder)
    except Exception as error:
        with suppress(FileExistsError), (folder / ERROR).open("x", encoding="utf-8") as file:
            file.write(f"{type(error).__name__}: {error}")
        raise


if __name__ == "__main__":
    main(Path(sys.argv[1]))
