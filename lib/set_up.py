"""Set-up: make the environment and install into it, with nothing but Python itself.

``python3 -P lib/set_up.py`` (make calls it) installs what is missing; ``--check`` only says in one line what is.
Killed, the next call goes on; two at once wait for each other.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import platform
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
READY = VENV / ".installed"
NEEDED_GB = 4
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


class SetUpFailed(RuntimeError):
    """What stopped the set-up, in one line."""


def pins(text: str) -> dict[str, str]:
    """Exact versions in a requirements file.

    >>> pins("torch==2.13.0  # note\\n    # via this\\n")
    {'torch': '2.13.0'}
    """
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;#]+)", text, flags=re.M))


def wrong_packages(wanted: dict[str, str]) -> list[str]:
    """Packages that this environment lacks or has in another version; a local suffix as ``+cpu`` does not count."""
    found = []
    for name, version in wanted.items():
        try:
            installed = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            found.append(f"{name} is missing")
        else:
            if installed != version:
                found.append(f"{name} is {installed}, not {version}")
    return found


def pip(*words: str, quietly: bool = False) -> bool:
    """Install into the environment; returns whether it went well. Byte compilation would take longer than the rest."""
    command = [str(PYTHON), "-m", "pip", "install", "--no-compile", "-qq", "--disable-pip-version-check", *words]
    told = subprocess.DEVNULL if quietly else None
    return subprocess.run(command, cwd=ROOT, close_fds=False, stderr=told).returncode == 0


def make_environment() -> None:
    """Make ``.venv`` unless it is there and works."""
    if PYTHON.exists() and subprocess.run([PYTHON, "-m", "pip", "--version"], capture_output=True).returncode == 0:
        return
    free_gb = shutil.disk_usage(ROOT).free / 2**30
    if free_gb < NEEDED_GB:
        raise SetUpFailed(f"the disk has {free_gb:.1f} GB free, {NEEDED_GB} are needed: free some and call make again")
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], capture_output=True, text=True)
    if made.returncode:
        raise SetUpFailed(f"{sys.executable} cannot make an environment (on Debian: apt install python3-venv)")


def install_torch(version: str) -> None:
    """Install torch: on Linux without a GPU the CPU build, never by accident the large CUDA build."""
    code = "import importlib.metadata as m; print(m.version('torch').partition('+')[0])"
    if subprocess.run([PYTHON, "-c", code], capture_output=True, text=True).stdout.strip() == version:
        return
    if platform.system() != "Linux" or shutil.which("nvidia-smi"):
        if not pip(f"torch=={version}"):
            raise SetUpFailed("torch could not be installed (see above): call make again")
        return
    # By name of its build: no index that pip is told of can put another in its place. Its few needs come with the rest.
    build = ["--no-deps", f"torch=={version}+cpu"]
    if not (pip(*build, "--retries", "1", "--timeout", "15", "--index-url", CPU_INDEX, quietly=True) or pip(*build)):
        raise SetUpFailed(
            f"no CPU build of torch was found at {CPU_INDEX}: try again when it can be reached, or take the "
            f"large build: .venv/bin/python -m pip install torch=={version}, then make set-up"
        )


def install() -> None:
    """Make the environment and install everything, telling each step."""
    say("[1/4] set-up: Python packages into .venv (about 1 min, once)")
    make_environment()
    wanted = pins((ROOT / "requirements.txt").read_text(encoding="utf-8"))
    say("      torch")
    install_torch(wanted["torch"])
    say("      all other packages")
    if not pip("-r", "requirements.txt"):
        raise SetUpFailed("a package could not be installed (see above): call make again")
    if not pip("--no-deps", "--editable", "."):
        raise SetUpFailed("the package lib could not be put in place (see above): call make again")
    check = "import torch, transformers, papermill, snakemake, openai, fastapi, matplotlib, lib"
    tried = subprocess.run([PYTHON, "-c", check], cwd=VENV, capture_output=True, text=True)
    if tried.returncode:
        raise SetUpFailed(f"{tried.stderr.strip().splitlines()[-1]}: make clean-venv, then call make again")
    READY.touch()


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """Command line of this script; returns the exit code."""
    parser = argparse.ArgumentParser(description="Install what this project needs into .venv.")
    parser.add_argument("--check", action="store_true", help="say what this environment lacks, install nothing")
    if parser.parse_args().check:
        wrong = wrong_packages(pins((ROOT / "requirements.txt").read_text(encoding="utf-8")))
        if wrong:
            READY.unlink(missing_ok=True)
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            say(f"{wrong[0]}{more} in .venv: call make again, which installs it, or begin anew with make clean-venv")
        return 1 if wrong else 0
    with (ROOT / "requirements.txt").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another set-up is at work in this folder: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        # The lock lives as long as a child that has it: a pip that outlives a killed make is waited for.
        os.set_inheritable(lock.fileno(), True)
        try:
            install()
        except (SetUpFailed, OSError) as error:
            say(f"set-up: {error}")
            return 1
        except KeyboardInterrupt:
            say("set-up: ended by hand; the same command goes on")
            return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
