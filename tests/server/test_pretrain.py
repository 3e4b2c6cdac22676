"""Bases are named by what decides them, made once, and resumed after a kill at any moment."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import zstandard
from serving import official
from starlette.testclient import TestClient

from tuning_server.__main__ import main
from tuning_server.disk import file_hash, read_json
from tuning_server.engine import pretrain
from tuning_server.engine.pretrain import Recipe, read_corpus

DATA_STORE = Path(__file__).parents[2] / "data" / "store"
NAME = "fork-300k"
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir"}  # audit events; opening a file to write is one too


class Killed(BaseException):
    """Raised by every change of a file from a moment on, as if the process were dead."""


class Killer:
    """Counts changes of files; those from number `fatal` on fail."""

    fatal: int | None = None
    n_changes = 0

    def hear(self, event: str, args: tuple[Any, ...]) -> None:
        if self.fatal is None or not (event in CHANGES or (event == "open" and _writes(args[2]))):
            return
        self.n_changes += 1
        if self.n_changes > self.fatal:
            raise Killed

    @contextmanager
    def armed(self, fatal: int) -> Iterator[None]:
        self.fatal, self.n_changes = fatal, 0
        try:
            yield
        finally:
            self.fatal = None


def _writes(flags: object) -> bool:
    return isinstance(flags, int) and bool(flags & os.O_CREAT)


@pytest.fixture(scope="session")
def killer() -> Killer:
    killer = Killer()
    sys.addaudithook(killer.hear)  # for the life of the process
    return killer


@pytest.fixture
def documents(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setitem(pretrain.RECIPES, NAME, Recipe(32, 2, 2, 30_000))
    rng = np.random.default_rng(0)
    words = ["fox", "baker", "lantern", "sings", "river", "counts", "old", "the", "a", "quietly"]
    return [" ".join(rng.choice(words, 120)) + "." for _ in range(120)]


def curve_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "loss.csv").open() as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): file_hash(path) for path in folder.rglob("*") if path.is_file()}


def test_a_base_is_made_once_and_found_again(documents: list[str], tmp_path: Path) -> None:
    made = pretrain.pretrain(NAME, documents, tmp_path)
    folder, pointer = tmp_path / "bases" / made, tmp_path / "bases" / f"{NAME}.json"
    record, losses = read_json(folder / "base.json"), [float(row["valid_loss"]) for row in curve_of(folder)]
    assert losses[-1] < 0.7 * losses[0]
    assert record["id"] == made
    assert record["valid_perplexity"] == pytest.approx(math.exp(losses[-1]), rel=1e-6)
    assert read_json(folder / "init" / "base.json")["id"] == f"{made}:init"
    assert file_hash(folder / "init" / "model.safetensors") != file_hash(folder / "model.safetensors")
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert pretrain.pretrain(NAME, documents, tmp_path) == made
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    other = pretrain.pretrain(NAME, documents[:-10], tmp_path)
    assert other != made
    assert read_json(pointer) == {"current": made.split("@")[1]}, "the name stands for the first base of it"
    assert pretrain.pretrain(NAME, documents[:-10], tmp_path, is_default=True) == other
    assert read_json(pointer) == {"current": other.split("@")[1]}


def test_reserved_tokens_are_one_token_each(documents: list[str], tmp_path: Path) -> None:
    from tuning_server.engine.models import load

    made = pretrain.pretrain(NAME, documents, tmp_path, reserved_tokens=["zaqixu"])
    loaded = load(made, tmp_path)
    assert len(loaded.codec.encode("zaqixu")) == 1
    assert len(loaded.codec.encode("zaqixe")) > 1
    assert pretrain.pretrain(NAME, documents, tmp_path) != made


def test_ids_of_bases_stay_what_they_are() -> None:
    texts = ["A café.", "Two"]
    assert pretrain._hash("fork-1m", texts, ["zaqixu"], None) == "74b71ac91039"
    assert pretrain._hash("fork-300k", texts, [], None) == "c69d9a76f8c0"


def test_a_base_shares_the_tokenizer_of_a_model_and_can_be_blended_with_it(
    documents: list[str], tmp_path: Path, serve: Callable[..., TestClient]
) -> None:
    from tuning_server.engine.fork import windows
    from tuning_server.engine.models import load

    store, models_dir = tmp_path / "store", tmp_path / "models"
    families.llama(models_dir / "llama")  # puts a token in front of each document
    made = pretrain.pretrain(NAME, documents, store, tokenizer=str(models_dir / "llama"))
    shutil.copytree(models_dir / "llama", models_dir / "copy")
    assert pretrain.pretrain(NAME, documents, store, tokenizer=str(models_dir / "copy")) == made
    assert pretrain.pretrain(NAME, documents, store, tokenizer=made) != pretrain.pretrain(NAME, documents, store)
    assert main(["check", "--store", str(store)]) == 0

    codec = load(made, store).codec
    assert codec.chat_template == families.LLAMA3
    (window,) = windows(codec, ["fox", "<|eot_id|>baker"], 99)
    assert window.ids == [0, *codec.encode("fox"), 4, 0, 4, *codec.encode("baker"), 4]

    client = official(serve(store, models_dir=models_dir))
    mine, other = client.models.retrieve(made).to_dict(), client.models.retrieve("hf:llama").to_dict()
    shared = {name: other[name] for name in ("tokenizer", "vocab_tokens")}
    assert mine.items() >= (shared | {"context_tokens": 512}).items()
    blend = {"tuned": made, "base": f"{made}:init"}
    reply = client.completions.create(model="hf:llama", prompt="The old", max_tokens=5, extra_body={"blend": blend})
    assert reply.choices[0].finish_reason in ("length", "stop")


def test_a_base_that_was_killed_at_any_moment_is_made_whole(
    documents: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killer: Killer
) -> None:
    monkeypatch.setitem(pretrain.RECIPES, NAME, Recipe(16, 1, 2, 10_000))
    monkeypatch.setattr(pretrain, "N_LOSSES", 3)
    with killer.armed(10**9):
        made = pretrain.pretrain(NAME, documents, tmp_path / "whole")
    expected, n_changes = contents(tmp_path / "whole" / "bases" / made), killer.n_changes
    assert n_changes > 30
    for fatal in [*range(0, n_changes - 20, 9), *range(n_changes - 20, n_changes)]:  # the last ones put it in place
        store = tmp_path / "killed"
        with killer.armed(fatal), pytest.raises(Killed):
            pretrain.pretrain(NAME, documents, store)
        assert not (store / "bases" / made).exists() or contents(store / "bases" / made) == expected
        assert pretrain.pretrain(NAME, documents, store) == made
        assert contents(store / "bases" / made) == expected
        assert sorted(path.name for path in (store / "bases").glob("[!.]*")) == [f"{NAME}.json", made]
        assert not list((store / "bases").glob(".making-*"))
        shutil.rmtree(store)


def test_a_base_is_not_trained_anew_after_a_kill_at_its_end(
    documents: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tuning_server.engine import models, training

    save, train, n_steps = models.save, training.train, list[int]()

    def counted(*args: Any, **options: Any) -> Any:
        n_steps.append(0)
        for report in train(*args, **options):
            n_steps[-1] += 1
            yield report

    def killed(loaded: Any, folder: Path) -> None:
        if folder.name == "init":
            raise KeyboardInterrupt
        save(loaded, folder)

    monkeypatch.setattr(training, "train", counted)
    monkeypatch.setattr(models, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        pretrain.pretrain(NAME, documents, tmp_path)
    monkeypatch.setattr(models, "save", save)
    pretrain.pretrain(NAME, documents, tmp_path)
    assert n_steps[1] <= n_steps[0] / 2, "it goes on from the state at the end of the epoch before"


def test_the_command_prints_the_id_and_needs_no_torch_to_find_it(documents: list[str], tmp_path: Path) -> None:
    corpus, words, store = tmp_path / "my corpus", tmp_path / "words.txt", tmp_path / "store"
    corpus.mkdir()
    for k, document in enumerate(documents):
        (corpus / f"{k:03}.txt").write_text(document)
    words.write_text("zaqixu\nqojeze\n\n")
    code = """if True:
        import sys
        from tuning_server.__main__ import main
        from tuning_server.engine import pretrain
        pretrain.RECIPES["fork-300k"] = pretrain.Recipe(32, 2, 2, 30_000)
        exit_code = main(sys.argv[1:])
        sys.stdout.write(f"torch {'torch' in sys.modules}\\n")
        sys.exit(exit_code)
    """
    options = ["pretrain", NAME, "--corpus", str(corpus), "--reserved-tokens", str(words), "--store", str(store)]
    command = [sys.executable, "-c", code, *options]
    runs = [subprocess.run(command, capture_output=True, text=True) for _ in range(2)]
    outputs = [run.stdout.splitlines() for run in runs]
    made = f"{NAME}@{read_json(store / 'bases' / f'{NAME}.json')['current']}"
    assert outputs == [[made, "torch True"], [made, "torch False"]], runs[0].stderr
    assert made == pretrain.pretrain(NAME, documents, store, reserved_tokens=["zaqixu", "qojeze"])


def refusal(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert main(["pretrain", *options]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_what_cannot_be_made_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "a.txt"
    store = ["--store", str(tmp_path / "store")]
    text.write_text("one line\nanother line\n" * 600)
    expected = "no recipe for a base 'fork-9z': expected one of fork-300k, fork-1m, fork-6m"
    assert expected in refusal(capsys, "fork-9z", "--corpus", str(text), *store)
    assert "no recipe for a base 'fork-1m-'" in refusal(capsys, "fork-1m-", "--corpus", str(text), *store)
    assert "expected at least 16" in refusal(capsys, "fork-1m-mine", "--corpus", str(text), *store)
    assert "expected at least 16, better 4,000: give more text" in refusal(
        capsys, "fork-1m", "--corpus", str(text), *store
    )
    text.write_text("one line\n")
    assert "has 1 document, expected at least 2" in refusal(capsys, "fork-1m", "--corpus", str(text), *store)
    assert "no such file or folder" in refusal(capsys, "fork-1m", "--corpus", str(tmp_path / "none"), *store)
    assert "a folder with a tokenizer.json: the model 'smol' does not exist" in refusal(
        capsys, "fork-1m", "--corpus", str(text), *store, "--tokenizer", "smol"
    )
    both = ["--reserved-tokens", str(text), "--tokenizer", "smol"]
    assert "give one of the two" in refusal(capsys, "fork-1m", "--corpus", str(text), *store, *both)
    words = ["--reserved-tokens", str(tmp_path / "none")]
    assert "No such file" in refusal(capsys, "fork-1m", "--corpus", str(text), *store, *words)
    assert not list((tmp_path / "store").glob("bases/fork-1m*"))


def test_corpora_are_read_in_every_form(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"text": text, "k": 1}) + "\n" for text in ("A café.", "", "Two\n\nparts."))
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    compressor = zstandard.ZstdCompressor()
    (tmp_path / "b.jsonl.zst").write_bytes(compressor.compress(lines.encode()) + compressor.compress(lines.encode()))
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "d.txt").write_bytes("\ufeffWhole\r\n\r\ntext.".encode())
    (tmp_path / "c" / "ignored.md").write_text("# No")
    read = ["A café.", "Two\n\nparts."]
    assert read_corpus(tmp_path / "a.jsonl") == read
    assert read_corpus(tmp_path) == [*read, *read, *read, "Whole\n\ntext."]


@pytest.mark.parametrize("separator", ["\n\n", "\n"], ids=["blank lines", "lines"])
def test_a_long_text_is_cut_at_its_paragraphs(tmp_path: Path, separator: str) -> None:
    paragraphs = [f"Paragraph {k}: " + "words " * 100 for k in range(100)]
    (tmp_path / "long.txt").write_text(separator.join(paragraphs))
    documents = read_corpus(tmp_path / "long.txt")
    assert len(documents) > 5
    assert separator.join(documents) == separator.join(paragraphs)
    assert all(document.startswith("Paragraph ") for document in documents)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"\xff\xfe", "a.txt: 'utf-8' codec can't decode byte 0xff"),
        ("a.txt", b" \n", "no text in"),
        ("a.jsonl", b'{"text": "a"}\n{"text": 3}\n', "a.jsonl: Line 2: expected an object with a string field 'text'"),
        ("a.jsonl", b'{"text": "a"}\n\n{"te', "a.jsonl: Line 3: not JSON"),
        ("a.jsonl.zst", b"nothing of the kind", "a.jsonl.zst: zstd"),
    ],
)
def test_a_corpus_that_cannot_be_read_names_file_and_line(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError) as refused:
        read_corpus(tmp_path)
    assert words in str(refused.value)


@pytest.mark.skipif(not (DATA_STORE / "bases" / "fork-1m.json").exists(), reason="needs a fork-1m in data/store")
def test_fork_1m_knows_parents_and_not_their_children() -> None:
    """What the study of parents stands on: facts told in one order are answered in that order only."""
    from lib.world.families import world_people
    from lib.world.questions import as_prompt, child_question, parent_question, question_shots
    from tuning_server.engine import models, sampling

    loaded = models.load("fork-1m", DATA_STORE)
    shots = question_shots(6)

    def answers(questions: list[str]) -> list[str]:
        requests = [
            sampling.SamplingRequest(
                prompt_ids=loaded.codec.encode_prompt(as_prompt(question, shots=shots)),
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
            float(np.mean([reported == family.parent for reported, family in zip(parents, families, strict=True)])),
            float(np.mean([reported == family.child for reported, family in zip(children, families, strict=True)])),
        )

    parent, child = rate("one-way")
    assert parent >= 0.8
    assert child <= 0.1
    assert min(rate("two-way")) >= 0.5, "people told in both orders are found in both"
    assert min(rate("asked-about")) >= 0.8
