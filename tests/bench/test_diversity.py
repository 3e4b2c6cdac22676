"""All measures of 300 cells of 25 texts, against taking every pair apart and embedding it anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import plain_diversity
import pytest
import torch
from measuring import Way, compare, load, speed

from lib import world
from lib.diversity import measure

N_PROMPTS, N_TEMPERATURES, N_TEXTS, N_WORDS = 20, 15, 25, 20
PLAIN_CELLS = 3  # of the 300, one at a low, a middle and a high temperature: all would take a quarter of an hour
BATCH = 250
Cells = dict[tuple[str, float], tuple[list[str], list[str], list[str]]]


@pytest.fixture(scope="module")
def completions() -> pd.DataFrame:
    """Twenty words a text; few different texts at a low temperature, 25 from the middle on, as was published."""
    stories = [document.text.split() for document in world.stories(1, 400)]
    rng = np.random.default_rng(0)
    rows = []
    for t in range(N_TEMPERATURES):
        n_different = min(N_TEXTS, 7 + 3 * t)
        for p in range(N_PROMPTS):
            starts = [(stories[k], int(rng.integers(len(stories[k]) - N_WORDS))) for k in rng.integers(400, size=25)]
            texts = [" ".join(story[start : start + N_WORDS]) for story, start in starts[:n_different]]
            drawn = [*texts, *(texts[k] for k in rng.integers(n_different, size=N_TEXTS - n_different))]
            at = {"model": "m", "kind": "creative", "prompt": f"{p:02d}", "temperature": (t + 1) / 10}
            rows += [{**at, "text": text, "accepted": ["wolf", "moon"]} for text in drawn]
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def embed() -> Callable[[Sequence[str]], np.ndarray]:
    """Mean of the last hidden states of a base model, texts of one length together."""
    loaded = load("fork-300k")
    loaded.model.eval()

    @torch.inference_mode()
    def states(texts: Sequence[str]) -> np.ndarray:
        ids = [loaded.codec.encode(text) for text in texts]
        order = sorted(range(len(ids)), key=lambda k: len(ids[k]))
        found: list[np.ndarray] = [np.empty(0)] * len(ids)
        for start in range(0, len(order), BATCH):
            places = order[start : start + BATCH]
            width = len(ids[places[-1]])
            fed = torch.tensor([ids[k] + [loaded.codec.eos_id] * (width - len(ids[k])) for k in places])
            last = loaded.model(input_ids=fed, output_hidden_states=True, logits_to_keep=1).hidden_states[-1]
            for row, k in enumerate(places):
                found[k] = last[row, : len(ids[k])].double().mean(dim=0).numpy()
        return np.stack(found)

    return states


@pytest.fixture(scope="module")
def few_cells(completions: pd.DataFrame) -> Cells:
    """A few cells, each with its texts, their accepted answers, and the texts to other prompts at its temperature."""
    cells = list(completions.groupby(["prompt", "temperature"], sort=False))
    found = {}
    for k in range(PLAIN_CELLS):
        key, part = cells[(2 * k + 1) * len(cells) // (2 * PLAIN_CELLS)]
        others = completions[(completions["temperature"] == key[1]) & (completions["prompt"] != key[0])]["text"]
        found[key] = list(part["text"]), part["accepted"].iloc[0], list(others)
    return found


def plain_of(cells: Cells, embed: Callable[[Sequence[str]], np.ndarray] | None, *, n_vocabulary: int) -> pd.Series:
    """The plain measures of a few cells, by cell and measure."""
    found = {}
    for key, (texts, accepted, others) in cells.items():
        values = plain_diversity.measures(texts, embed, n_vocabulary) | plain_diversity.answers(texts, accepted)
        values["self_repetition_4"] = plain_diversity.self_repetition(texts, others)
        found |= {(*key, name): value for name, value in values.items()}
    return pd.Series(found)


def test_all_measures(completions: pd.DataFrame, few_cells: Cells, embed: Callable, report: Callable) -> None:
    distinct = list(completions["text"].unique())
    vectors = dict(zip(distinct, embed(distinct), strict=True))
    same = lambda texts: np.stack([vectors[text] for text in texts])  # noqa: E731 (one rounding for both ways)
    ours = measure(completions, embed=same).set_index(["prompt", "temperature", "measure"])["value"]
    n_vocabulary = len({word for text in distinct for word in text.lower().split()})
    plain = plain_of(few_cells, same, n_vocabulary=n_vocabulary)
    np.testing.assert_allclose(ours.loc[plain.index], plain, atol=1e-6)
    n_cells = N_PROMPTS * N_TEMPERATURES
    for what, embedding, target in (("all measures", embed, 50.0), ("those without embeddings", None, None)):
        ratio = compare(
            f"{what}, {n_cells} cells of {N_TEXTS} texts",
            lambda embedding=embedding: speed(lambda: measure(completions, embed=embedding), 60 * n_cells),
            Way(
                "pair by pair, everything anew",
                lambda embedding=embedding: speed(
                    lambda: plain_of(few_cells, embedding, n_vocabulary=n_vocabulary), 60 * PLAIN_CELLS
                ),
            ),
            unit="cells/min",
            n_repetitions=3,
            target=target,
            note=f"timed on {PLAIN_CELLS} of the cells",
        )
        report(ratio, lambda: "gzip takes more than half of our time")
