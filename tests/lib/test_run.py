"""Stages run by papermill: order, values, failures, locks; with throw-away notebooks."""

from __future__ import annotations

import json
import os
import sys

import jupytext
import nbformat
import papermill
import pytest
from filelock import FileLock
from jupyter_client.kernelspec import KernelSpec

from lib import run as runner
from lib.notebook import Run, start_run
from lib.paths import ROOT
from lib.run import OVERVIEW, main, plan_run


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
    assert {"people.txt", "params/demo/laptop.yaml", "notebooks/demo/02-finetune.py"} == set(manifest["inputs"])
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


def test_help_lists_the_studies_and_the_parameters_of_one(demo, capsys):
    for arguments, expected in (
        (["--help"], f"{demo:<11} laptop"),
        (["--preset", "laptop", demo, "--help"], "n_people = 12\n      people [1..]"),
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        assert expected in capsys.readouterr().out


def test_a_base_given_alone_is_the_only_one(make_stage):
    bases = 'base: str = "fork-1m"  # base\nsize_bases: list[str] = ["fork-6m"]  # sizes\n'
    make_stage("sizes/01-finetune", bases)
    plan = plan_run("sizes", preset="tiny", base="hf:mine", seeds=3)
    assert (plan.params["base"], plan.params["size_bases"]) == ("hf:mine", [])
    assert plan_run("sizes", preset="tiny", base="hf:mine", sets=["size_bases=hf:b"]).params["size_bases"] == ["hf:b"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dmo"], "did you mean demo"),
        (["demo", "--preset", "labtop"], "did you mean laptop"),
        (["demo", "--stage", "07"], "it has: 01-data-prep, 02-finetune"),
        (["demo", "--stage", "0"], "demo has no stage '0'"),
        (["demo", "--stage", "00"], "demo has no stage '00'"),
        (["demo", "--set", "n_peple=3"], "did you mean n_people"),
        (["demo", "--set", "n_people=x"], "should be a valid integer"),
        (["demo", "--seeds", "0"], "greater than or equal to 1"),
        (["demo", "--set", "out=x"], "give --out"),
    ],
)
def test_wrong_values_are_refused_before_a_kernel_starts(demo, caplog, monkeypatch, arguments, message):
    monkeypatch.setattr(runner, "execute", lambda *_: pytest.fail("a kernel was started"))
    assert main(arguments) == 2
    assert message in caplog.text
    assert len(caplog.records) == 1


def test_an_overview_of_no_runs_is_refused_and_nothing_is_made(home, demo, caplog, monkeypatch):
    executed = []
    monkeypatch.setattr(runner, "execute", lambda *given: executed.append(given))
    assert main([OVERVIEW, "--preset", "laptop"]) == 2
    (home / "runs" / "laptop" / demo).mkdir(parents=True)
    (home / "runs" / "laptop" / demo / "01.manifest.json").write_text("{}")
    assert main([OVERVIEW, "--preset", "labtop"]) == 2
    for words in (["--stage", "02"], ["--set", "n_people=3"], ["--seeds", "1"], ["--out", "x"], ["--download"]):
        assert main([OVERVIEW, *words]) == 2
    assert executed == []
    assert [path.name for path in (home / "runs").iterdir()] == ["laptop"]
    assert "'laptop'; there are runs of: none" in caplog.messages[0]
    assert "'labtop' (did you mean laptop?)" in caplog.messages[1]
    assert ["no other option" in message for message in caplog.messages[2:]] == [True] * 5
    assert main([OVERVIEW]) == 0
    assert executed[0][2] == {"preset": "laptop", "runs": str(home / "runs" / "laptop")}


def test_a_stage_without_its_earlier_one_names_the_command(demo, caplog):
    assert main([demo, "--stage", "02"]) == 1
    assert "01-data-prep has not been run: python -m lib.run demo --preset laptop --stage 01" in caplog.text


def execute_here(notebook, target, parameters):
    """Run the cells of a notebook in this process, which is faster than a kernel."""
    namespace = {}
    for cell in jupytext.read(notebook).cells:
        if cell.cell_type == "code":
            exec(cell.source, namespace)
            namespace |= parameters if "parameters" in cell.metadata.get("tags", []) else {}


@pytest.fixture
def chain(make_stage, monkeypatch):
    """Three stages; the last reads what the second made of the first one's data, and declares no parameter."""
    finish = '\nrun.finish("done")'
    write = 'run.path("data.txt").write_text(str(data_seed))'
    copy = 'run.path("copy.txt").write_text(run.need("data.txt").read_text())'
    make_stage("chain/01-data-prep", "data_seed: int = 0  # of the data\n", write + finish)
    make_stage("chain/02-finetune", "", copy + finish)
    make_stage("chain/03-evaluation", "", 'run.need("copy.txt")' + finish)
    monkeypatch.setattr(runner, "execute", execute_here)
    return "chain"


def run_chain(home, *words):
    return main(["chain", "--preset", "tiny", "--out", str(home / "run"), *words])


def test_a_stage_is_refused_when_any_earlier_one_ran_with_other_values(home, chain, caplog):
    assert run_chain(home) == 0
    assert run_chain(home, "--stage", "03", "--set", "data_seed=1") == 1
    assert "01-data-prep was run with data_seed = 0, now it is 1: run it again (python -m lib.run chain" in caplog.text
    assert run_chain(home, "--stage", "01", "--set", "data_seed=1") == 0
    assert run_chain(home, "--stage", "03", "--set", "data_seed=1") == 1
    assert "02-finetune was run with data_seed = 0, now it is 1" in caplog.text
    assert run_chain(home, "--stage", "02", "--set", "data_seed=1") == 0
    assert run_chain(home, "--stage", "03", "--set", "data_seed=1", "--set", "budget_usd=1") == 0
    caplog.clear()
    assert run_chain(home, "--stage", "03", "--set", "data_seed=1", "--seeds", "2") == 1
    assert "n_seeds = 1, now it is 2" in caplog.text


def test_a_stage_is_refused_when_an_earlier_one_ran_on_other_data(home, chain, caplog):
    assert run_chain(home) == 0
    (home / "run" / "data.txt").write_text("others")
    assert run_chain(home, "--stage", "03") == 1
    assert "02-finetune was run on another data.txt, which has changed since: run it again" in caplog.text


def test_a_notebook_alone_takes_the_values_of_the_stages_before_it(home, chain):
    assert run_chain(home, "--stage", "01", "--set", "data_seed=7") == 0
    here = {"preset": "tiny", "out": str(home / "run"), "budget_usd": 2.0}
    run = start_run("chain/02-finetune", here)
    assert (run.params["data_seed"], run.params["budget_usd"]) == (7, 2.0)
    with pytest.raises(ValueError, match="01-data-prep was run with seed = 0, now it is 3"):
        start_run("chain/02-finetune", here | {"seed": 3})


@pytest.fixture
def by_hand(home, chain, make_stage, make_preset):
    """Runs a stage of `chain` as a reader does in JupyterLab: with values changed in its cell, if any."""
    make_preset("chain", "tiny", "data_seed: 0\nrate: 1.0\n")
    make_preset("chain", "large", "data_seed: 5\n")
    body = 'run.path("copy.txt").write_text(run.need("data.txt").read_text() + str(rate))\nrun.finish("done")'
    path = make_stage("chain/02-finetune", "rate: float = 1.0  # of learning\n", body)

    def run(stage, **values):
        path = next((home / "notebooks" / "chain").glob(f"{stage}-*.py"))
        namespace = {}
        for cell in jupytext.read(path).cells:
            if cell.cell_type == "code":
                exec(cell.source, namespace)
                namespace |= values if "parameters" in cell.metadata.get("tags", []) else {}
        return namespace

    assert path.exists()
    return run


def test_a_value_changed_in_a_cell_reaches_the_later_stages_and_no_folder_of_a_preset(home, by_hand, capsys):
    for stage in ("01", "02", "03"):
        by_hand(stage)
    own, changed = home / "runs" / "tiny" / "chain", home / "runs" / "tiny-changed" / "chain"
    before = {path.name: path.read_bytes() for path in own.iterdir()}
    capsys.readouterr()
    by_hand("02", rate=0.5)
    assert "preset tiny with rate = 0.5" in capsys.readouterr().out
    assert (changed / "copy.txt").read_text() == "00.5", "the data of the preset's own run"
    assert by_hand("03")["run"].folder == changed
    manifest = json.loads((changed / "03.manifest.json").read_text())
    assert (manifest["parameters"]["rate"], manifest["changed"]) == (0.5, {})
    assert json.loads((changed / "02.manifest.json").read_text())["changed"] == {"rate": 0.5}
    assert {path.name: path.read_bytes() for path in own.iterdir()} == before
    by_hand("02")
    assert by_hand("03")["run"].folder == own, "the latest run of the stage before counts"


def test_data_changed_by_hand_refuse_a_stage_that_was_trained_on_others(by_hand):
    for stage in ("01", "02"):
        by_hand(stage)
    by_hand("01", data_seed=9)
    with pytest.raises(ValueError, match="02-finetune was run with data_seed = 0, now it is 9: run it again"):
        by_hand("03")
    by_hand("02")
    assert by_hand("03")["run"].params["data_seed"] == 9


def test_another_preset_named_in_the_cell_brings_its_values(home, by_hand, capsys):
    namespace = by_hand("01", preset="large")
    assert namespace["data_seed"] == 5
    assert namespace["run"].folder == home / "runs" / "large" / "chain"
    assert "preset large with data_seed = 5" in capsys.readouterr().out
    assert by_hand("02", preset="large")["run"].changed == {}


def test_a_notebook_goes_on_with_the_seeds_of_the_stages_before_it(home, by_hand):
    assert main(["chain", "--preset", "large", "--stage", "01", "--seeds", "3"]) == 0
    assert by_hand("02", preset="large")["run"].seeds == [0, 1, 2]


def test_the_py_runs_and_an_ipynb_that_differs_is_named(home, demo, caplog):
    path = home / "notebooks" / demo / "01-data-prep.py"
    jupytext.write(jupytext.read(path), path.with_suffix(".ipynb"))
    before = path.with_suffix(".ipynb").read_bytes()
    assert main([demo, "--stage", "01"]) == 0
    assert "differs" not in caplog.text
    path.write_text(path.read_text().replace('run.finish("written")', 'run.finish("edited")'))
    assert main([demo, "--stage", "01"]) == 0
    assert "01-data-prep.ipynb differs from 01-data-prep.py, which is what runs (make sync copies it)" in caplog.text
    executed = nbformat.read(home / "runs" / "laptop" / demo / "01-data-prep.ipynb", 4)
    assert executed.cells[-1].outputs[0].text == "edited\n"
    assert path.with_suffix(".ipynb").read_bytes() == before, "the repository is left as it is"


def test_another_python3_kernel_is_not_taken(home, demo, make_stage, monkeypatch):
    kernel = home / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    other = {"argv": ["/bin/false", "{connection_file}"], "display_name": "Other", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(other))
    monkeypatch.setenv("JUPYTER_PATH", str(home / "jupyter"))
    where = 'import sys, lib\nprint(sys.executable, lib.__file__)\nrun.finish("done")'
    make_stage("demo/01-data-prep", "n_people: int = 12  # people [1..]\n", where)
    assert main([demo, "--stage", "01"]) == 0
    printed = nbformat.read(home / "runs" / "laptop" / demo / "01-data-prep.ipynb", 4).cells[-1].outputs[0].text
    assert printed.startswith(f"{sys.executable} {ROOT}/lib/__init__.py")


def test_a_folder_that_cannot_be_written_is_refused_in_one_line(demo, caplog, monkeypatch):
    monkeypatch.setenv("TUNING_FORK_RUNS", "/proc/runs")
    assert main([demo]) == 1
    assert "cannot write to /proc/runs/laptop/demo" in caplog.text
    assert "set TUNING_FORK_RUNS" in caplog.text


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
    notebook = home / "notebook.ipynb"
    jupytext.write(jupytext.read(home / "notebooks" / demo / "01-data-prep.py"), notebook)
    values = {"preset": "laptop", "n_people": 30, "factor": 2}  # factor is a key of another stage
    papermill.execute_notebook(
        str(notebook), str(home / "out.ipynb"), values, progress_bar=False, kernel_name="python3", language="python"
    )
    assert (home / "runs" / "laptop" / demo / "people.txt").read_text() == "30"
    with pytest.raises(papermill.PapermillExecutionError, match="did you mean n_people"):
        papermill.execute_notebook(
            str(notebook),
            str(home / "out.ipynb"),
            {"n_peple": 3},
            progress_bar=False,
            kernel_name="python3",
            language="python",
        )


def test_a_kernel_that_does_not_start_in_time(home, demo, monkeypatch, caplog):
    silent = KernelSpec(argv=["sh", "-c", "sleep 30"], language="python")
    monkeypatch.setattr("lib.run.OwnKernel.kernel_spec", silent)
    monkeypatch.setattr("lib.run.KERNEL_SECONDS", 1)
    assert main([demo, "--stage", "01"]) == 1
    assert "didn't respond in 1 seconds" in caplog.text


def test_start_run_reads_the_namespace(home, demo):
    given = {"preset": "tiny", "seed": 3, "n_seeds": 2, "n_people": 5, "In": [], "Out": {}, "_i": "", "os": os}
    run = start_run("demo/01-data-prep", given)
    assert (run.study, run.stage, run.number, run.preset, run.seeds) == ("demo", "01-data-prep", "01", "tiny", [3, 4])
    assert run.params["n_people"] == 5
    assert run.params["factor"] == 2, "a key of another stage has its default"
    assert run.folder == home / "runs" / "tiny-changed" / demo
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


def test_start_run_takes_an_old_manifest_away_and_need_names_the_command(demo):
    run = start_run("demo/02-finetune", {})
    run.finish("done")
    assert run.manifest.exists()
    run = start_run("demo/02-finetune", {})
    assert not run.manifest.exists()
    with pytest.raises(
        FileNotFoundError, match="run all of the notebook 01 first, or python -m lib.run demo --preset tiny --stage 01"
    ):
        run.need("people.txt")
