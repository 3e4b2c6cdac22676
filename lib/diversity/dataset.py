"""The data of a run: training rows of each method, prompts of each kind, and text that no stage was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib import world
from lib.diversity.chain import read_stages
from lib.diversity.preferences import TuningData, preference_rows, sft_rows, tuning_data
from lib.diversity.prompts import Prompt, read_prompts
from lib.paths import read_jsonl, write_jsonl

TEXT_FILE, PROMPTS_FILE = "text.jsonl", "prompts.jsonl"
TOLD_KINDS = ("family", "family question", "fact", "helpful", "unhelpful")  # no general text
WORDS_A_DOCUMENT = 80  # that the world writes for each one wanted; general texts have about 45


def write_dataset(params: Mapping[str, Any], folder: Path) -> tuple[TuningData | None, list[Prompt]]:
    """Write all that a run begins with.

    Parameters
    ----------
    params : ``stages``, ``chain``, ``tuned_model`` (nothing is tuned where models are given), ``n_sft``,
        ``n_preferences``, ``n_validation``, ``style``, ``form``, ``data_seed``; ``prompts``, ``n_prompts``, ``kinds``;
        ``text``, ``n_documents``

    Returns
    -------
    tuple
        The pairs that stages are tuned on (None where models are given), and the prompts.

    Raises
    ------
    ValueError
        If a stage or prompt is wrong, or the world has not so many pairs.
    """
    read_stages(params["stages"])
    n, kinds = params["n_prompts"], params["kinds"]
    new = [kind for kind in kinds if kind != "seen"]
    kept = read_prompts(params["prompts"], n_prompts=n, kinds=new) if new or not kinds else []
    data, seen = None, list[str]()
    if not (params["chain"] or params["tuned_model"]):
        data = tuning_data(
            params["data_seed"],
            n_sft=params["n_sft"],
            n_preferences=params["n_preferences"],
            n_validation=params["n_validation"],
            style=params["style"],
            avoid=[*(prompt.prompt for prompt in kept), *(fact.question for fact in world.factual_prompts())],
        )
        seen = list(dict.fromkeys(pair.prompt for pair in data.sft))
        files = {
            "supervised.train": sft_rows(data.sft, form=params["form"]),
            "supervised.validation": sft_rows(data.sft_validation, form=params["form"]),
            "dpo.train": preference_rows(data.preferences, form=params["form"]),
            "dpo.validation": preference_rows(data.preference_validation, form=params["form"]),
        }
        for name, rows in files.items():
            write_jsonl(folder / f"{name}.jsonl", rows)
    prompts = read_prompts(params["prompts"], n_prompts=n, kinds=kinds, seen=seen)
    write_jsonl(folder / PROMPTS_FILE, [vars(prompt) for prompt in prompts])
    if not params["text"]:
        write_jsonl(folder / TEXT_FILE, general_text(params["data_seed"], params["n_documents"]))
    return data, prompts


def stored_prompts(folder: Path) -> list[Prompt]:
    """The prompts that `write_dataset` wrote."""
    return [Prompt(**{**row, "accepted": tuple(row["accepted"])}) for row in read_jsonl(folder / PROMPTS_FILE)]


def general_text(seed: int, n_documents: int) -> list[dict[str, str]]:
    """Different documents of the invented world, of another seed than what bases grow from, and none that is tuned on.

    Raises
    ------
    ValueError
        If the world wrote fewer.
    """
    n_facts = sum(document.n_words for document in world.fact_documents(seed + 1))
    written = world.write_world(seed=seed + 1, n_words=n_facts + WORDS_A_DOCUMENT * n_documents)
    told = list({each.text: vars(each) for each in written if each.kind not in TOLD_KINDS}.values())
    if len(told) < n_documents:
        raise ValueError(
            f"the world wrote {len(told)} documents of general text, n_documents is {n_documents}: ask for fewer"
        )
    return told[:n_documents]
