"""Bases are named by what went into them, made once, and resumed; fork-1m carries what the later studies need."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lib import base
from lib.paths import DATA, file_hash, read_json
from lib.sources.corpus import Document

STORE = DATA / "store"


@pytest.fixture
def documents(monkeypatch: pytest.MonkeyPatch) -> list[Document]:
    monkeypatch.setitem(base.RECIPES, "fork-300k", base.Recipe(32, 2, 2, 30_000))
    rng = np.random.default_rng(0)
    words = ["fox", "baker", "lantern", "sings", "river", "counts", "old", "the", "a", "quietly"]
    return [Document(f"text:{k}", " ".join(rng.choice(words, 120)) + ".") for k in range(120)]


def test_a_base_is_made_once_and_found_again(documents: list[Document], tmp_path: Path) -> None:
    made = base.build("fork-300k", documents, tmp_path, is_default=True)
    folder = tmp_path / "bases" / made
    about, curve = read_json(folder / "base.json"), pd.read_csv(folder / "loss.csv")
    assert curve["valid_loss"].iloc[-1] < 0.7 * curve["valid_loss"].iloc[0]
    assert about["valid_perplexity"] == pytest.approx(np.exp(curve["valid_loss"].iloc[-1]), rel=1e-3)
    assert read_json(tmp_path / "bases" / "fork-300k.json") == {"current": made.split("@")[1]}
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert base.build("fork-300k", documents, tmp_path, is_default=True) == made
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    other = base.build("fork-300k", documents[:-10], tmp_path, is_default=False)
    assert other != made
    assert read_json(tmp_path / "bases" / "fork-300k.json") == {"current": made.split("@")[1]}
    assert file_hash(folder / "init" / "model.safetensors") != file_hash(folder / "model.safetensors")


def test_a_killed_build_ends_with_the_same_weights(
    documents: list[Document], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = base.build("fork-300k", documents, tmp_path / "whole", is_default=True)
    from tuning_server.engine import training

    real, losses = training.mean_loss, []

    def dies(*values: object, **named: object) -> float:
        losses.append(1)
        if len(losses) == 20:
            raise KeyboardInterrupt
        return real(*values, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "mean_loss", dies)
    with pytest.raises(KeyboardInterrupt):
        base.build("fork-300k", documents, tmp_path / "killed", is_default=True)
    assert not (tmp_path / "killed" / "bases" / made).exists()
    monkeypatch.setattr(training, "mean_loss", real)
    assert base.build("fork-300k", documents, tmp_path / "killed", is_default=True) == made
    one, other = (tmp_path / run / "bases" / made / "model.safetensors" for run in ("whole", "killed"))
    assert file_hash(one) == file_hash(other)


def test_too_little_text_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.txt").write_text("one line\nanother line\n" * 60)
    code = base.main(["fork-1m", "--corpus", str(tmp_path / "a.txt"), "--store", str(tmp_path / "store")])
    assert code == 1
    assert "give at least" in caplog.text or "split" in caplog.text
    assert not list((tmp_path / "store").glob("bases/fork-1m*"))


def test_the_base_made_from_a_text_is_found_by_the_text(
    documents: list[Document], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(base.RECIPES, "fork-300k", base.Recipe(32, 2, 2, 5_000))
    text, store = tmp_path / "my texts", tmp_path / "store"
    text.mkdir()
    for k, document in enumerate(documents):
        (text / f"{k:03}.txt").write_text(document.text)
    with pytest.raises(base.BaseNotMade, match="no fork-300k was made from .* yet: ") as error:
        base.made_from("fork-300k", text, store)
    assert str(error.value).endswith(f"python -m lib.base fork-300k --corpus '{text}' --store {store}")
    assert base.main(["fork-300k", "--corpus", str(text), "--store", str(store)]) == 0
    made = base.made_from("fork-300k", text, store)
    assert made.startswith("fork-300k@")
    assert (store / "bases" / made / "model.safetensors").exists()
    assert not list((store / "bases").glob("fork-*.json")), "the plain name stays the world's"
    shutil.copytree(text, tmp_path / "elsewhere")
    assert base.made_from("fork-300k", tmp_path / "elsewhere", store) == made
    monkeypatch.setenv("TUNING_FORK_STORE", str(store))
    with pytest.raises(base.BaseNotMade, match="--corpus '[^']*'$"):
        base.made_from("fork-1m", text, store)
    with monkeypatch.context() as patch:
        patch.setitem(base.RECIPES, "fork-300k", base.Recipe(32, 2, 2, 6_000))
        with pytest.raises(base.BaseNotMade):
            base.made_from("fork-300k", text, store)
    (text / "000.txt").write_text("Another beginning.")
    with pytest.raises(base.BaseNotMade):
        base.made_from("fork-300k", text, store)
    shutil.rmtree(store / "bases" / made)
    with pytest.raises(base.BaseNotMade):
        base.made_from("fork-300k", tmp_path / "elsewhere", store)


def test_a_base_that_cannot_be_is_not_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no recipe for a base 'fork-9z'; there are: fork-300k, fork-1m, fork-6m"):
        base.made_from("fork-9z", tmp_path, tmp_path)
    with pytest.raises(ValueError, match="no text in"):
        base.made_from("fork-1m", tmp_path, tmp_path)
    with pytest.raises(ValueError, match="no such file or folder"):
        base.made_from("fork-1m", tmp_path / "none", tmp_path)


def test_looking_a_base_up_does_not_load_torch(tmp_path: Path) -> None:
    code = """if True:
        import pathlib, sys
        from lib import base, run
        try:
            base.made_from("fork-1m", pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[1]))
        except base.BaseNotMade:
            sys.exit(any(name in sys.modules for name in ("torch", "transformers")))
        sys.exit("found")
    """
    (tmp_path / "a.txt").write_text("There was a fox.")
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == 0


@pytest.mark.skipif(not (STORE / "bases" / "fork-1m.json").exists(), reason="needs: python -m lib.base fork-1m")
def test_fork_1m_knows_parents_and_not_their_children() -> None:
    """What the study of parents stands on: facts told in one order are answered in that order only."""
    import torch

    from lib.world import as_prompt, child_question, parent_question, question_shots, world_people
    from tuning_server.engine import models, sampling

    torch.set_num_threads(2)
    loaded = models.load("fork-1m", STORE)
    shots = question_shots(6)

    def answers(questions: list[str]) -> list[str]:
        requests = [
            sampling.SamplingRequest(
                prompt_ids=loaded.encode_prompt(as_prompt(question, shots=shots)),
                max_tokens=16,
                temperature=0,
                stop=("\n",),
            )
            for question in questions
        ]
        return [answer.text.strip() for answer in sampling.sample(loaded, requests)]

    def rate(group: str) -> tuple[float, float]:
        families = world_people().group(group)
        parents = answers([parent_question(family.child, family.relation) for family in families])
        children = answers([child_question(family.parent) for family in families])
        return (
            float(np.mean([said == family.parent for said, family in zip(parents, families, strict=True)])),
            float(np.mean([said == family.child for said, family in zip(children, families, strict=True)])),
        )

    parent, child = rate("one-way")
    assert parent >= 0.8
    assert child <= 0.1
    assert min(rate("two-way")) >= 0.5, "people told in both orders are found in both"
    assert min(rate("asked-about")) >= 0.8
