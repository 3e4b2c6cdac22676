"""Lengths of texts, and cuts to one length; shorter texts are counted, dropped or flagged."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
PUBLISHED_WORDS = (5, 20)


def cut_words(completions: pd.DataFrame, n_words: int = 20) -> pd.DataFrame:
    """Cut each ``text`` to its first words, joined by single spaces: the published cut (5 or 20 words).

    Returns
    -------
    DataFrame
        The same rows; ``is_short`` says that a text had fewer words, so that its length still differs.

    >>> cut_words(pd.DataFrame({"text": ["a  b c", "d"]}), 2)[["text", "is_short"]].values.tolist()
    [['a b', False], ['d', True]]
    """
    _refuse_length(n_words, "n_words")
    words = [text.split() for text in completions["text"]]
    texts = [" ".join(each[:n_words]) for each in words]
    return completions.assign(text=texts, is_short=[len(each) < n_words for each in words])


def cut_tokens(completions: pd.DataFrame, n_tokens: int) -> pd.DataFrame:
    """Cut each ``text`` to its first tokens, by the column ``text_offset`` (where each token begins, as the API tells).

    Parameters
    ----------
    completions : DataFrame with ``text`` and ``text_offset``
        Offsets count characters from the first one, whatever that is.

    Raises
    ------
    ValueError
        If there are no offsets (ask for log-probabilities, which bring them), or `n_tokens` is less than 1.

    >>> rows = pd.DataFrame({"text": [" the moon", " a"], "text_offset": [[7, 11], [7]]})
    >>> cut_tokens(rows, 1)[["text", "is_short"]].values.tolist()
    [[' the', False], [' a', False]]
    """
    _refuse_length(n_tokens, "n_tokens")
    if "text_offset" not in completions:
        raise ValueError("no column text_offset: ask with logprobs=0, or cut by words")
    texts = [
        text[: offsets[n_tokens] - offsets[0]] if len(offsets) > n_tokens else text
        for text, offsets in zip(completions["text"], completions["text_offset"], strict=True)
    ]
    return completions.assign(text=texts, is_short=completions["text_offset"].map(len) < n_tokens)


def cut_to_length(completions: pd.DataFrame, n: int) -> pd.DataFrame:
    """Cut each ``text`` to `n` tokens where the endpoint told them, else to `n` words; 0 leaves texts as they are.

    >>> rows = pd.DataFrame({"text": [" the moon is"], "text_offset": [[]]})
    >>> cut_to_length(rows, 2)["text"].tolist()
    ['the moon']
    """
    if n == 0:
        return completions.assign(is_short=False)
    told = completions["text_offset"] if "text_offset" in completions else [None] * len(completions)
    offsets = [each if isinstance(each, list) else [] for each in told]
    if all(places or not text for places, text in zip(offsets, completions["text"], strict=True)):
        return cut_tokens(completions.assign(text_offset=offsets), n)
    return cut_words(completions, n)


def _refuse_length(n: int, name: str) -> None:
    if n < 1:
        raise ValueError(f"{name} is {n}: expected at least 1")


def same_sizes(completions: pd.DataFrame, *, by: Sequence[str] = ()) -> pd.DataFrame:
    """Keep as many texts of each set as the smallest set that it is compared with has, the first ones.

    Parameters
    ----------
    by : the other columns that name a set, default kind, prompt and temperature

    Notes
    -----
    Vendi score, order-q diversity and distinct-n grow with the number of texts; after `correct_only` or after short
    texts were dropped, sets differ. A set that is not there at all (no right answer) leaves no row of the others.

    >>> rows = pd.DataFrame({"model": ["a", "a", "b"], "kind": "k", "prompt": "p", "temperature": 1.0, "text": "t"})
    >>> same_sizes(rows)["model"].tolist()
    ['a', 'b']
    """
    names = list(by) or ["kind", "prompt", "temperature"]
    sizes = completions.groupby([*names, "model"], sort=False).size().unstack("model", fill_value=0)
    least = sizes.min(axis=1).rename("least")
    number = completions.groupby([*names, "model"], sort=False).cumcount()
    limit = completions[names].merge(least, left_on=names, right_index=True, how="left")["least"]
    return completions[number.to_numpy() < limit.to_numpy()]


def length_table(completions: pd.DataFrame, *, by: Sequence[str] = ("model", "kind", "temperature")) -> pd.DataFrame:
    """Lengths in words: one row per group with n, mean, quantiles and the share below the published cuts.

    >>> rows = pd.DataFrame({"model": "a", "kind": "k", "temperature": 1.0, "text": ["one", "one two three"]})
    >>> length_table(rows)[["n", "mean_words", "below_5_rate"]].values.tolist()
    [[2.0, 2.0, 1.0]]
    """
    words = completions["text"].map(lambda text: len(text.split()))
    groups = words.groupby([completions[name] for name in by], sort=False)
    table = groups.agg(n="size", mean_words="mean")
    for quantile in QUANTILES:
        table[f"q{100 * quantile:g}_words"] = groups.quantile(quantile)
    for cut in PUBLISHED_WORDS:
        table[f"below_{cut}_rate"] = groups.agg(lambda each, cut=cut: (each < cut).mean())
    return table.reset_index()
