"""Stages run by papermill: order, values, failures, locks; with throw-away notebooks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import nbformat
import papermill
import psutil
import pytest
from filelock import FileLock

from lib import base
from lib import run as runner
from lib.notebook import Run, start_run
from lib.run import main, plan_run
from lib.sources.corpus import read_documents


@pytest.fixture
def demo(make_stage, make_preset):
    write = 'run.path("people.txt").write_text(str(run.params["n_people"]))\nrun.finish("written")'
    read = (
        'n = int(run.need("people.txt").read_text())\nrun.path("n.txt").write_text(str(n * factor))\nrun.finish("read")'
    )
    make_stage("demo/01-data-prep", "n_people: int = 12  # people [1..]\n", write)
    make_stage("demo/02-finetune", "factor: int = 2  # times\n", read)
    make_preset("demo", "laptop", "preset: laptop\nn_people: 30\n")
    return "demo"


def test_all_stages_run_in_order_with_the_values_of_the_preset(home, demo):
    assert main([demo]) == 0
    folder = home / "runs" / "laptop" / demo
    assert (folder / "n.txt").read_text() == "60"
    manifest = json.loads((folder / "02.manifest.json").read_text())
    assert manifest["parameters"]["n_people"] == 30
    assert manifest["n_seeds"] == 1
    assert {"people.txt", "params/demo/laptop.yaml", "notebooks/demo/02-finetune.ipynb"} == set(manifest["inputs"])
    assert manifest["packages"]["numpy"]
    assert nbformat.read(folder / "02-finetune.ipynb", 4).cells[-1].outputs[0].text == "read\n"


def test_set_has_a_folder_of_its_own_and_seeds_has_not(home, demo):
    plan = plan_run(demo, sets=["n_people=31"], seeds=3)
    assert plan.folder.parent.name.startswith("laptop-")
    assert plan.params["out"] == str(plan.folder)
    assert (plan.params["n_people"], plan.params["n_seeds"]) == (31, 3)
    plan = plan_run(demo, seeds=3)
    assert plan.folder == home / "runs" / "laptop" / demo
    assert plan.params["out"] == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["dmo"], "did you mean demo"),
        (["demo", "--preset", "labtop"], "did you mean laptop"),
        (["demo", "--stage", "07"], "it has: 01-data-prep, 02-finetune"),
        (["demo", "--set", "n_peple=3"], "did you mean n_people"),
        (["demo", "--set", "n_people=x"], "expected int"),
        (["demo", "--seeds", "0"], "out of its range"),
        (["demo", "--set", "out=x"], "give --out"),
    ],
)
def test_what_is_wrong_is_said_before_a_kernel_starts(demo, caplog, monkeypatch, arguments, said):
    monkeypatch.setattr(runner, "execute", lambda *_: pytest.fail("a kernel was started"))
    assert main(arguments) == 2
    assert said in caplog.text
    assert len(caplog.records) == 1


def test_a_stage_without_its_earlier_one_names_the_command(demo, caplog):
    assert main([demo, "--stage", "02"]) == 1
    assert "01-data-prep has not been run: python -m lib.run demo --preset laptop --stage 01" in caplog.text


def test_a_stage_whose_earlier_one_ran_with_other_values_is_refused(demo, caplog):
    assert main([demo, "--stage", "01"]) == 0
    assert main([demo, "--stage", "02", "--seeds", "2"]) == 1
    assert "01-data-prep was run with n_seeds = 1, now 2" in caplog.text


def test_a_failed_stage_keeps_its_notebook_and_has_no_manifest(home, demo, make_stage, caplog):
    make_stage("demo/01-data-prep", "n_people: int = 12  # people [1..]\n", 'raise ValueError("lost the thread")')
    folder = home / "runs" / "laptop" / demo
    folder.mkdir(parents=True)
    (folder / "01.manifest.json").write_text("{}")
    assert main([demo]) == 1
    assert "01-data-prep failed: ValueError: lost the thread" in caplog.text
    assert "lost the thread" in (folder / "01-data-prep.ipynb").read_text()
    assert not (folder / "01.manifest.json").exists()
    assert not (folder / "02-finetune.ipynb").exists()


def test_a_stage_that_never_finishes_its_manifest_has_failed(demo, make_stage, caplog):
    make_stage("demo/01-data-prep", "n_people: int = 12  # people [1..]\n", "pass")
    assert main([demo, "--stage", "01"]) == 1
    assert "wrote no manifest" in caplog.text


def test_a_folder_in_use_is_refused_in_one_line(home, demo, caplog, monkeypatch):
    monkeypatch.setattr(runner, "LOCK_SECONDS", 0.1)
    folder = home / "runs" / "laptop" / demo
    folder.mkdir(parents=True)
    with FileLock(folder / ".lock"):
        assert main([demo]) == 1
    assert "in use by another run" in caplog.text


def test_papermill_alone_runs_a_stage(home, demo):
    notebook = home / "notebooks" / demo / "01-data-prep.ipynb"
    values = {"preset": "laptop", "n_people": 30, "factor": 2}  # factor is a key of another stage
    papermill.execute_notebook(
        str(notebook), str(home / "out.ipynb"), values, progress_bar=False, kernel_name="python3"
    )
    assert (home / "runs" / "laptop" / demo / "people.txt").read_text() == "30"
    with pytest.raises(papermill.PapermillExecutionError, match="did you mean n_people"):
        papermill.execute_notebook(
            str(notebook), str(home / "out.ipynb"), {"n_peple": 3}, progress_bar=False, kernel_name="python3"
        )


def test_start_run_reads_the_namespace(home, demo):
    given = {"preset": "tiny", "seed": 3, "n_seeds": 2, "n_people": 5, "In": [], "Out": {}, "_i": "", "os": os}
    run = start_run("demo/01-data-prep", given)
    assert (run.study, run.stage, run.number, run.preset, run.seeds) == ("demo", "01-data-prep", "01", "tiny", [3, 4])
    assert run.params["n_people"] == 5
    assert run.params["factor"] == 2, "a key of another stage has its default"
    assert run.folder == home / "runs" / "tiny" / demo
    again = start_run("demo/01-data-prep", given)
    other = start_run("demo/02-finetune", {"seed": 3})
    numbers = run.rng.integers(1 << 40)
    assert numbers == again.rng.integers(1 << 40)
    assert numbers != other.rng.integers(1 << 40)


def test_start_run_again_in_a_live_kernel_leaves_the_readers_names_alone(demo):
    run = start_run("demo/01-data-prep", {"n_people": 5})
    assert isinstance(start_run("demo/01-data-prep", {"n_people": 6, "run": run, "rows": [1]}), Run)
    with pytest.raises(ValueError, match="no parameter 'rows'"):
        start_run("demo/01-data-prep", {"n_people": 6, "rows": [1]})


def test_start_run_keeps_other_values_out_of_the_folder_of_a_preset(demo):
    with pytest.raises(ValueError, match="preset laptop sets n_people = 30, here it is 5"):
        start_run("demo/01-data-prep", {"preset": "laptop", "n_people": 5})


def test_start_run_takes_an_old_manifest_away_and_need_names_the_command(demo):
    run = start_run("demo/02-finetune", {})
    run.finish("done")
    assert run.manifest.exists()
    run = start_run("demo/02-finetune", {})
    assert not run.manifest.exists()
    with pytest.raises(FileNotFoundError, match="run python -m lib.run demo --preset tiny --stage 01 first"):
        run.need("people.txt")


def test_a_killed_parent_leaves_no_orphan_writing(home, demo, make_stage):
    sleep = 'import os, time\nrun.path("kernel").write_text(str(os.getpid()))\ntime.sleep(60)\nrun.finish("slept")'
    make_stage("demo/01-data-prep", "n_people: int = 12  # people [1..]\n", sleep)
    parent = f"""
        import os, subprocess, sys
        os.environ["TUNING_FORK_WATCH"] = str(os.getpid())
        subprocess.run(["sh", "-c", "{sys.executable} -m lib.run demo --stage 01; true"])
    """
    started = subprocess.Popen([sys.executable, "-c", textwrap.dedent(parent)], start_new_session=True)
    kernel = home / "runs" / "laptop" / demo / "kernel"
    wait_for(lambda: kernel.exists() and kernel.read_text(), 30)
    works = psutil.Process(int(kernel.read_text()))
    runs = works.parent()
    assert "lib.run" in " ".join(runs.cmdline())
    started.send_signal(signal.SIGKILL)
    started.wait()
    wait_for(lambda: not works.is_running() and not runs.is_running(), 5)


@pytest.fixture
def lending(home, make_stage, monkeypatch):
    """A study whose second and third stage need bases made from a text; records what is called, in order."""
    make_stage("lending/01-data-prep", 'general: str = ""  # text that bases are made from\n')
    bases = 'base: str = "fork-300k"  # base\nbigs: list[str] = []  # big ones\nsize_bases: list[str] = []  # sizes\n'
    make_stage("lending/02-finetune", bases)
    make_stage("lending/03-evaluation", bases)
    (home / "texts").mkdir()
    (home / "texts" / "a.txt").write_text("There was a fox.")
    called = []

    def make(command, *, env, **_):
        name = command[3]
        assert command == [sys.executable, "-m", "lib.base", name, "--corpus", str(home / "texts")]
        assert env["TUNING_FORK_WATCH"]
        called.append(name)
        record = base._record(name, read_documents(home / "texts"), home / "store")
        (home / "store" / "bases" / f"{name}@abcd").mkdir(parents=True)
        base.write_json(record, {"id": f"{name}@abcd", "recipe": base._recipe_hash(name)})
        return subprocess.CompletedProcess(command, 0, stderr="")

    monkeypatch.setattr(runner.subprocess, "run", make)
    monkeypatch.setattr(runner, "run_stage", lambda plan, notebook: called.append(notebook.stem))
    return called


def test_missing_bases_are_made_from_the_text_before_the_stage_that_needs_them(home, lending):
    sets = [f"general={home / 'texts'}", "bigs=fork-1m, fork-300k:init, hf:gpt2, fork-6m@3f2a", "size_bases=fork-6m"]
    command = ["lending", "--preset", "tiny", *(word for pair in sets for word in ("--set", pair))]
    assert main(command) == 0
    assert lending == ["01-data-prep", "fork-300k", "fork-1m", "02-finetune", "03-evaluation"]
    assert base.made_from("fork-1m", home / "texts", home / "store") == "fork-1m@abcd"
    lending.clear()
    assert main([*command, "--seeds", "3"]) == 0
    assert lending == ["01-data-prep", "fork-6m", "02-finetune", "03-evaluation"], "what is there is not made again"


def test_no_base_is_made_unless_a_text_is_named_and_a_stage_needs_it(home, lending):
    assert main(["lending", "--preset", "tiny"]) == 0
    assert main(["lending", "--preset", "tiny", "--stage", "01", "--set", f"general={home / 'none'}"]) == 0
    assert lending == ["01-data-prep", "02-finetune", "03-evaluation", "01-data-prep"]


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["general={home}/none"], "no such file or folder: {home}/none"),
        (["general={home}/notebooks"], "no text in {home}/notebooks"),
        (["general={home}/texts", "base=fork-9m"], "no recipe for a base 'fork-9m'"),
    ],
)
def test_a_text_that_makes_no_base_is_said_before_the_first_stage(home, lending, caplog, sets, said):
    pairs = [word for pair in sets for word in ("--set", pair.format(home=home))]
    assert main(["lending", "--preset", "tiny", *pairs]) == 1
    assert lending == []
    assert len(caplog.records) == 1
    assert said.format(home=home) in caplog.text


@pytest.mark.parametrize(
    ("stderr", "said"),
    [("a warning\nfork-300k: the corpus fills 3 windows\n", "fork-300k: the corpus fills 3 windows"), ("", "code 9")],
)
def test_a_base_that_fails_stops_the_run_in_one_line(home, lending, caplog, monkeypatch, stderr, said):
    failed = subprocess.CompletedProcess([], 9, stderr=stderr)
    monkeypatch.setattr(runner.subprocess, "run", lambda *_, **__: failed)
    assert main(["lending", "--preset", "tiny", "--set", f"general={home / 'texts'}"]) == 1
    assert lending == ["01-data-prep"]
    assert caplog.messages[-1].startswith("lib.run: lending: no base model from")
    assert caplog.messages[-1].endswith(said)


def wait_for(holds, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)
