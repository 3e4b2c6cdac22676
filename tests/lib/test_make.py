"""The Makefile, set-up and cleaning: what they refuse, and what they leave alone."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from lib.paths import ROOT


def pins(name: str) -> dict[str, str]:
    """Exact versions in a requirements file."""
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;#]+)", (ROOT / name).read_text(), flags=re.M))


def make(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *words], cwd=cwd, capture_output=True, text=True)


def test_what_is_pinned_is_installed_and_no_cuda_is_pinned():
    pinned = pins("requirements.txt")
    assert len(pinned) > 100
    assert not [name for name in pinned if name.startswith(("nvidia", "cuda", "triton"))]
    direct = {name.lower(): version for name, version in pins("requirements.in").items()}
    assert direct.items() <= pinned.items()
    installed = {name: metadata.version(name).partition("+")[0] for name in pinned}
    assert installed == pinned


@pytest.fixture
def bare_checkout(tmp_path):
    """A folder with a space in its name, and a Python that only writes down with which words it is called."""
    folder = tmp_path / "a b"
    (folder / "tools").mkdir(parents=True)
    (folder / "notebooks" / "reversal").mkdir(parents=True)
    for name in ("Makefile", "requirements.txt", "pyproject.toml", "tools/set-up"):
        shutil.copy(ROOT / name, folder / name)
    python = folder / "python"
    python.write_text(
        f'''#!/bin/sh
echo "$@" >> "{folder}/calls"
if [ "$2" = venv ]; then mkdir -p .venv/bin; cp "$0" .venv/bin/python; fi
if [ "$2" = uv ]; then exit $NO_UV; fi
'''
    )
    python.chmod(0o755)
    return folder


@pytest.mark.parametrize(("gpu", "uv"), [(False, True), (False, False), (True, True)])
def test_set_up_takes_the_cuda_build_of_torch_only_where_there_is_a_gpu(bare_checkout, gpu, uv):
    path = [str(bare_checkout / "bin"), *(part for part in os.environ["PATH"].split(":") if not has_gpu_tools(part))]
    (bare_checkout / "bin").mkdir()
    if gpu:
        (bare_checkout / "bin" / "nvidia-smi").write_text("#!/bin/sh\n")
        (bare_checkout / "bin" / "nvidia-smi").chmod(0o755)
    (bare_checkout / "bin" / "uname").write_text("#!/bin/sh\necho Linux\n")
    (bare_checkout / "bin" / "uname").chmod(0o755)
    environment = {**os.environ, "PYTHON": "./python", "PATH": ":".join(path), "NO_UV": "0" if uv else "1"}
    subprocess.run(["tools/set-up"], cwd=bare_checkout, env=environment, check=True)
    calls = (bare_checkout / "calls").read_text().splitlines()
    torch = [k for k, call in enumerate(calls) if "torch==" in call]
    rest = [k for k, call in enumerate(calls) if "-r requirements.txt" in call]
    assert len(torch) == 1
    assert torch[0] < rest[0]
    assert ("--no-deps" in calls[torch[0]] and calls[torch[0]].endswith("+cpu")) is not gpu
    assert ["-m uv" in calls[k] for k in rest] == ([True] if uv else [True, False])
    assert (bare_checkout / ".venv" / ".installed").exists()


def has_gpu_tools(folder: str) -> bool:
    return (Path(folder) / "nvidia-smi").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["STUDY=revesal"], "no study 'revesal'; there are: reversal"),
        (["STUDY=reversal", "PRESET=lap"], "reversal has no preset 'lap'; it has: tiny"),
    ],
)
def test_a_misspelt_study_is_refused_before_anything_is_installed(bare_checkout, words, message):
    ended = make("figures", *words, cwd=bare_checkout)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert not (bare_checkout / ".venv").exists()


def test_make_alone_lists_its_targets():
    listed = make().stdout
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M)
    assert {"figures", "test", "lab", "serve", "bench", "sync", "publish", "clean"} <= set(targets)
    assert [target for target in targets if f"make {target} " not in listed and target not in ("help", "set-up")] == []


def test_a_job_of_a_cluster_ends_its_server_also_in_a_folder_with_a_space(bare_checkout):
    block = re.search(r"(?<=^if workflow.remote_exec:\n)(    .*\n)+", (ROOT / "Snakefile").read_text(), flags=re.M)[0]
    prefixes = []
    names = {"shell": SimpleNamespace(prefix=prefixes.append), "shlex": shlex, "store_root": lambda: bare_checkout}
    exec(textwrap.dedent(block), names | {"PYTHON": f"{shlex.quote(str(bare_checkout / 'python'))} -m"})
    command = f'{prefixes[0]} echo "$TUNING_FORK_REGISTRY"; test -d "$TUNING_FORK_STORE" && echo "$TUNING_FORK_STORE"'
    environment = {**os.environ, "TMPDIR": str(bare_checkout)}
    ended = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, check=True)
    registry, store = ended.stdout.splitlines()
    assert registry == str(bare_checkout)
    assert (bare_checkout / "calls").read_text() == f"-m tuning_server stop --store {store}\n"
    assert not Path(store).exists()


def test_a_kernel_imports_the_checkout_in_whose_folder_it_works(tmp_path):
    (tmp_path / "lib").mkdir()
    for name in ("__init__.py", "notebook.py"):
        (tmp_path / "lib" / name).touch()
    folder = tmp_path / "notebooks" / "demo"
    folder.mkdir(parents=True)
    for cwd, root in ((folder, tmp_path), (ROOT / "notebooks", ROOT)):
        command = [sys.executable, "-c", "import lib; print(lib.__file__)"]
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        printed = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=True).stdout
        assert printed == f"{root}/lib/__init__.py\n"


@pytest.mark.parametrize(("words", "command"), [(["lib.server"], "serve"), (["lib.server", "check"], "check")])
def test_old_commands_say_where_they_went_and_still_work(words, command):
    ended = subprocess.run([sys.executable, "-m", *words, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert "is now: python -m tuning_server" in ended.stderr
    assert f"tuning-server {command} [-h]" in ended.stdout
