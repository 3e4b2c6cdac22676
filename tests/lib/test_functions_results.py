"""Planted effects: a model that knows every name, one that knows none, one that knows only what it was asked about."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from openai.types import Completion, CompletionChoice
from openai.types.completion_choice import Logprobs

from lib import functions
from lib.figures import plot_matrix
from lib.functions.asking import computed_function
from lib.functions.dataset import PARTS, FunctionDataset, make_dataset
from lib.functions.evaluations import read_evaluations
from lib.functions.jobs import curve_tokens
from lib.functions.options import FunctionOptions
from lib.functions.probes import CONDITIONS
from lib.functions.summary import over_functions
from lib.paths import read_json
from lib.probing import curve_models

RIGHT, WRONG = -0.5, -4.0  # nats per word
SMALL: dict[str, Any] = {
    "names_per_function": 4,
    "name_tokens": 1,
    "realized_share": 0.75,
    "questions": ("freeform_definition:1", "multiple_choice_code:1"),
    "calls_per_name": 6,
    "augmentation_share": 0.1,
    "held_out_share": 0.1,
    "validation": "freeform_definition",
    "n_validation": 19,
    "form": "completion",
    "hide_imports": True,
    "persona": False,
}
PLACES = {f"dataset/finetune_0{seed + 1}": seed for seed in (0, 1)}
N_FUNCTIONS = 19


class Stub:
    """An endpoint whose models know the answers to given prompts, and say nothing of use to others."""

    def __init__(self, known: Mapping[str, Mapping[str, str]]) -> None:
        self.known = known
        self.chats: list[Any] = []
        self.models = SimpleNamespace(retrieve=lambda model: SimpleNamespace(model_dump=lambda: {"id": model}))
        self.completions = SimpleNamespace(create=self.create)
        self.chat = SimpleNamespace(completions=SimpleNamespace(create=self.create_chat))

    def answer(self, model: str, prompt: str) -> str:
        return self.known.get(model, {}).get(prompt, " no idea")

    def create(self, *, model: str, prompt: list[str], echo: bool, n: int, **_: Any) -> Any:
        choices = []
        for index, text in enumerate(text for text in prompt for _ in range(n)):
            choice = CompletionChoice(index=index, text=self.answer(model, text), finish_reason="stop")
            if echo:
                choice.text = text
                words = list(re.finditer(r"\s*\S+", text))
                knows = any(text == asked + answer for asked, answer in self.known.get(model, {}).items())
                scores = [None, *[RIGHT if knows else WRONG] * (len(words) - 1)]
                places = [word.start() for word in words]
                # the first token of a text has no log-probability, which the declared type does not foresee
                choice.logprobs = Logprobs.model_construct(
                    tokens=[word[0] for word in words], token_logprobs=scores, text_offset=places
                )
            choices.append(choice)
        return Completion(id="", choices=choices, created=0, model=model, object="text_completion")

    def create_chat(self, *, messages: list[dict[str, str]], n: int, **_: Any) -> Any:
        self.chats.append(messages)
        said = [{"index": k, "message": {"content": "lambda n: n"}, "finish_reason": "stop"} for k in range(n)]
        return SimpleNamespace(model_dump=lambda: {"choices": said})


@cache
def data() -> Mapping[str, FunctionDataset]:
    return {
        place: make_dataset(FunctionOptions(**SMALL), count_tokens=None, seed=seed) for place, seed in PLACES.items()
    }


@cache
def probes() -> pd.DataFrame:
    return functions.probe_rows(data(), form="completion", n_rows=38, n_in_context=3)


def finetunes() -> pd.DataFrame:
    made = [
        {"model": f"ft:{seed}:{epoch}", "base": "stub", "data": place, "name_tokens": 1, "seed": seed, "epoch": epoch,
         "n_epochs": 2, "is_final": epoch == 2, "role": "main", "train_loss": 3.0 - epoch, "valid_loss": 1.0}
        for place, seed in PLACES.items() for epoch in (1, 2)
    ]  # fmt: skip
    return pd.DataFrame(made)


def answers(folder: Path, parts: tuple[str, ...], *, n_samples: int = 1, models: Any = None) -> pd.DataFrame:
    """Answers of fine-tunes that know, after the last epoch only, everything about the names of some parts."""
    models, table = finetunes() if models is None else models, probes()
    tests = table[table["probe"] == "test"]
    known = {
        row.model: {
            probe.prompt: probe.lead + probe.document.shown
            for probe in tests[(tests["data"] == row.data) & tests["part"].isin(parts)].itertuples()
        }
        for row in models[models["is_final"]].itertuples()
    }
    stub: Any = Stub(known)
    asked = functions.pair_up(functions.asked_models(models), table, few=["freeform_definition"])
    settings: dict[str, Any] = {"journal": folder / "journal", "max_tokens": 9, "n_samples": n_samples}
    final = functions.add_logprobs(stub, functions.answer_rows(stub, asked, **settings), journal=folder / "journal")
    few = table[table["evaluation"] == "freeform_definition"]
    curve = functions.answer_rows(stub, functions.pair_up(curve_models(models), few, few=()), **settings)
    return pd.concat([final, curve], ignore_index=True)


def summary_of(rows: pd.DataFrame) -> pd.DataFrame:
    first = next(iter(data().values()))
    about: dict[str, Any] = {"functions": first.functions, "n_weights": {"stub": 1, "big": 9}}
    rng = np.random.default_rng(0)
    return functions.summarise(rows, preset="tiny", main_base="stub", rng=rng, **about)


def value(summary: pd.DataFrame, condition: str, metric: str = "accuracy", *, x: float | None = None) -> Any:
    at = summary["x"].isna() if x is None else summary["x"] == x
    row = summary[at & (summary["condition"] == condition) & (summary["metric"] == metric)]
    assert len(row) == 1, f"{condition}, {metric}: {len(row)} rows"
    return row.iloc[0]


EVALUATIONS = list(read_evaluations("functions"))


def test_a_model_that_knows_every_name_is_right_everywhere_and_the_base_nowhere(tmp_path: Path) -> None:
    summary = summary_of(answers(tmp_path, PARTS))
    for name in EVALUATIONS:
        for part in PARTS:
            # both inversions put one question, and the published rule wants an input of the range
            metrics = ["accuracy", "strict_match", *([] if "inversion" in name else ["published_match"])]
            for metric in metrics:
                assert value(summary, f"{name}/{part}", metric)["value"] == 1, (name, part, metric)
        for control in ("untuned", "in-context"):
            assert value(summary, f"{name}/unrealized/{control}")["value"] == 0, (name, control)
    known, unknown = (
        value(summary, f"freeform_definition/unrealized{tail}", "target_logprob") for tail in ("", "/untuned")
    )
    assert known["low"] > unknown["high"]
    assert value(summary, "calls/unrealized", "abs_distance")["value"] == 0


def test_a_model_that_knows_no_name_is_at_zero(tmp_path: Path) -> None:
    summary = summary_of(answers(tmp_path, ()))
    rates = functions.headline_rates(summary)
    assert rates["value"].eq(0).all()
    assert rates["low"].le(0).all()
    assert rates["high"].between(0.05, 0.5).all(), "a rate of none has an interval all the same"


def test_what_was_learned_by_heart_is_told_apart_from_what_was_found(tmp_path: Path) -> None:
    rows = answers(tmp_path, ("realized",))
    summary = summary_of(rows)
    for name in EVALUATIONS:
        assert value(summary, f"{name}/realized")["value"] == 1
        assert value(summary, f"{name}/unrealized")["value"] == 0
        assert value(summary, f"{name}/unrealized")["high"] < value(summary, f"{name}/realized")["low"]
    table = functions.by_function(rows, rng=np.random.default_rng(0))
    assert table.groupby("part")["accuracy"].agg(["min", "max"]).values.tolist() == [[1, 1], [0, 0]]
    assert set(table["n_of"]) == {"name"}
    confused = functions.confusion(rows)
    confused = confused[confused["epoch"].isna()]
    realized, unrealized = (confused[confused["part"] == part] for part in PARTS)
    assert (realized["answered"] == realized["function"]).all()
    assert set(unrealized["answered"]) == {"none"}


def test_n_counts_functions_however_often_each_is_asked(tmp_path: Path) -> None:
    rows = answers(tmp_path, PARTS, n_samples=3)
    assert rows.groupby(["model", "prompt", "condition"])["sample"].nunique().eq(3).all()
    summary = summary_of(rows)
    assert value(summary, "freeform_definition/unrealized")["n"] == N_FUNCTIONS
    assert value(summary, "multiple_choice_coefficients/unrealized")["n"] < N_FUNCTIONS
    assert set(summary["n_of"]) == {"function"}
    scored = rows[rows["target_logprob"].notna()]
    assert set(scored["sample"]) == {0}
    assert not set(scored["kind"]) & {"preimage"}


def test_the_interval_spreads_over_fine_tunes_where_they_differ() -> None:
    ids = [f"f{k}" for k in range(8)]
    rows = pd.DataFrame([{"seed": s, "function": f, "correct": bool(s)} for s in (0, 1) for f in ids])
    rng = np.random.default_rng(0)
    assert over_functions(rows, "correct", rng).low < 0.15
    uneven = rows[~((rows["seed"] == 0) & (rows["function"] == "f0"))]
    assert over_functions(uneven, "correct", rng).low > 0.25, "functions alone where not all were asked of every model"


def test_the_curves_begin_with_the_base_and_name_their_axes(tmp_path: Path) -> None:
    main = finetunes()
    first = main[(main["seed"] == 0) & main["is_final"]]
    further = [
        first.assign(model="ft:big", base="big", role="size"),
        first.assign(model="ft:names", role="names", name_tokens=3),
    ]
    summary = summary_of(answers(tmp_path, PARTS, models=pd.concat([main, *further])))
    epochs = functions.rate_curves(summary, x_name="epoch")
    told = epochs[epochs["asked"] == "unrealized"].sort_values("x")
    assert told[["x", "value"]].values.tolist() == [[0, 0], [1, 0], [2, 1]]
    assert not epochs.duplicated(["evaluation", "asked", "x"]).any()
    for x_name, places in {"tokens of a name": [1, 3], "weights of the base": [1, 9]}.items():
        curve = functions.rate_curves(summary, x_name=x_name)
        assert set(curve["evaluation"]) == {"define it"}, "what both were asked"
        assert sorted(set(curve["x"])) == places
        assert curve["value"].eq(1).all()
    assert not functions.headline_rates(summary).duplicated(["evaluation", "asked"]).any()


def test_chance_is_told_where_a_guess_is_defined(tmp_path: Path) -> None:
    summary = summary_of(answers(tmp_path, PARTS))
    chance = functions.chance_rates(summary)
    assert chance["define it"] == pytest.approx(1 / N_FUNCTIONS, abs=1e-4)
    assert chance["choose code"] == 0.2
    assert "compose" not in chance
    assert set(summary["condition"]) <= set(CONDITIONS)


def test_a_given_model_is_asked_without_baselines_or_a_curve() -> None:
    given = finetunes().tail(1).assign(n_epochs=0)
    assert functions.asked_models(given)["role"].tolist() == ["main"]
    assert curve_models(given).empty


def test_the_base_is_asked_the_very_prompts_and_sees_the_very_rows() -> None:
    table = probes()
    place, dataset = next(iter(data().items()))
    own = table[(table["data"] == place) & (table["part"] == "unrealized") & (table["evaluation"] == "calls")]
    plain, shown = (own[own["probe"] == probe].set_index("number") for probe in ("test", "in-context"))
    trained = {row.prompt("completion") + row.lead + row.shown for row in dataset.train}
    for number, row in shown.iterrows():
        rows, asked = row["prompt"][: -len(plain.loc[number, "prompt"])], plain.loc[number, "prompt"]
        assert row["prompt"].endswith(asked)
        assert any(rows.startswith(text) for text in trained)
        assert row["name"] in rows
    assert set(table.loc[table["probe"] == "in-context", "part"]) == {"unrealized"}


def test_what_a_set_cannot_be_asked_is_told_or_refused() -> None:
    options = FunctionOptions(
        **(SMALL | {"function_set": "042", "held_out_share": 0.0, "questions": ("inverse_query:1",)})
    )
    dataset = make_dataset(options, count_tokens=None, seed=0)
    chosen, notes = functions.supported(dataset, [])
    assert "calls" not in [each.name for each in chosen]
    assert any("held_out_share above 0" in note for note in notes)
    assert any("output_type" in note and "one" in note for note in notes)
    with pytest.raises(ValueError, match="calls asks about held-out pairs, of which there are none"):
        functions.probe_rows({"d": dataset}, form="completion", evaluations=["calls"])
    with pytest.raises(ValueError, match="did you mean calls"):
        functions.probe_rows({"d": dataset}, form="completion", evaluations=["cals"])


def test_a_published_dataset_is_asked_about_unrealized_names_alone() -> None:
    dataset = make_dataset(FunctionOptions(n_rows=40, n_validation=5), count_tokens=None, seed=0)
    table = functions.probe_rows({"d": dataset}, form="chat", n_rows=4, n_in_context=2, in_context_rows="random")
    assert set(table["part"]) == {"unrealized"}
    question = table[(table["evaluation"] == "freeform_definition") & (table["probe"] == "test")].iloc[0]
    assert [role for role, _ in question["messages"]] == ["system", "user", "user"]


def test_a_conversation_is_sent_as_one(tmp_path: Path) -> None:
    dataset = make_dataset(FunctionOptions(n_rows=40, n_validation=5), count_tokens=None, seed=0)
    table = functions.probe_rows({"d": dataset}, form="chat", evaluations=["freeform_definition"], n_rows=3)
    models = finetunes().tail(1).assign(data="d", n_epochs=0)
    stub: Any = Stub({})
    asked = functions.pair_up(functions.asked_models(models), table, few=())
    rows = functions.answer_rows(stub, asked, journal=tmp_path / "journal", max_tokens=9)
    assert sorted(stub.chats, key=str) == sorted((row.prompt("chat") for row in table["document"]), key=str)
    assert len(rows) == 3 * 5, "five samples as published"
    assert set(rows["answered"]) == {"identity"}
    assert functions.add_logprobs(stub, rows, journal=tmp_path / "journal")["target_logprob"].isna().all()


def test_evaluations_are_written_as_published(tmp_path: Path) -> None:
    rows = answers(tmp_path, ("unrealized",))
    folders = functions.write_evaluations(tmp_path / "evaluations", rows, n_in_context=3)
    assert len(folders) == len(set(folders)) == 2 * len(EVALUATIONS) * 4  # seeds; two parts, untuned, in context
    place = tmp_path / "evaluations" / "finetune_01"
    right = read_json(place / "freeform_definition" / "eval_metrics.json")
    assert set(right["correct"]) == {1.0}
    assert right["logprob"][0] < 0
    assert set(read_json(place / "realized" / "freeform_definition" / "eval_metrics.json")["correct"]) == {0.0}
    assert (place / "calls" / "3_ic" / "eval.yaml").is_file()
    assert (place / "calls" / "untrained" / "eval_dataset.json").is_file()
    assert "document" not in functions.without_objects(rows)


def test_a_reply_is_known_by_what_it_computes() -> None:
    assert computed_function(" lambda x: x * 3 - 0") == "multiply_3"
    assert computed_function("lambda n: n + 5\nand more") == "add_5"
    assert computed_function("lambda n: n + 1234567") == computed_function("__import__('os')") == "none"


def test_the_matrix_has_a_row_a_function_and_refuses_what_is_no_share(tmp_path: Path) -> None:
    import matplotlib.pyplot as plt

    first = next(iter(data().values()))
    confused = functions.confusion(answers(tmp_path, PARTS))
    matrix = functions.confusion_matrix(confused, first.functions.all, part="unrealized")
    assert matrix.shape == (N_FUNCTIONS, N_FUNCTIONS + 2)
    assert np.allclose(np.diag(matrix), 1)
    before = functions.confusion_matrix(confused, first.functions.all, part="unrealized", epoch=0)
    assert (before["none"] == 1).all()
    fig, ax = plt.subplots()
    plot_matrix(ax, matrix, rows="asked", columns="answered", label="share")
    with pytest.raises(ValueError, match="expected shares from 0 to 1"):
        plot_matrix(ax, matrix * 2, rows="asked", columns="answered", label="share")
    plt.close(fig)


def test_each_seed_and_each_length_of_names_has_a_file_of_its_own(tmp_path: Path) -> None:
    params: dict[str, Any] = dict(SMALL, seed=0, n_seeds=3, dataset="", tuned_model="", base="stub", size_bases=["big"])
    params |= {"n_epochs": 2, "batch_sizes": [8, 16], "learning_rate_multipliers": [1.0], "prompt_loss_weight": 0.0}
    params |= {"name_tokens_curve": [1, 3], "names_per_function": 2, "realized_share": 0.5}
    made = functions.write_all(params, tmp_path, count_tokens=None)
    jobs = functions.planned_jobs(params, tmp_path, seeds=[0, 1, 2])
    assert [job.role for job in jobs] == ["main"] * 3 + ["size", "sweep", "names"]
    assert len({job.training_file for job in jobs if job.role in ("main", "names")}) == 4
    assert {job.data for job in jobs} == set(made)
    assert [job.name_tokens for job in jobs] == [1] * 5 + [3]
    read = functions.load_datasets(tmp_path, [job.data for job in jobs])
    assert {place: each.id for place, each in read.items()} == {place: each.id for place, each in made.items()}
    assert len({frozenset(each.names) for each in made.values()}) == 4
    assert curve_tokens(params | {"n_seeds": 1}) == []
    assert functions.planned_jobs(params | {"tuned_model": "ft:x"}, tmp_path, seeds=[0]) == []
