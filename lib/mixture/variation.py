"""Distance of sampled answers from the ideal mix: total variation, and the published score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, lgamma, log

from lib.functions.documents import Document
from lib.functions.scoring import first_line, score


def ideal_mix(answers: Sequence[str]) -> dict[str, float]:
    """Each function's answer by its share; where functions agree, their shares add up.

    >>> ideal_mix(["26", "10"]), ideal_mix(["-6", "-6"])
    ({'26': 0.5, '10': 0.5}, {'-6': 1.0})
    """
    return {answer: n / len(answers) for answer, n in Counter(answers).items()}


def sampled_mix(replies: Sequence[str], ideal: Mapping[str, float]) -> dict[str, float]:
    """Shares of what was sampled: right answers as the ideal writes them, others by their first line.

    Raises
    ------
    ValueError
        If there is no reply.

    >>> sampled_mix([" 26", "26.0\\n3=1", "7", "10"], {"26": 0.5, "10": 0.5})
    {'26': 0.5, '7': 0.25, '10': 0.25}
    """
    if not replies:
        raise ValueError("expected samples to hold against the ideal mix, found none")

    def said(reply: str) -> str:
        return next((answer for answer in ideal if score("text", reply, answer).correct), first_line(reply))

    return {answer: n / len(replies) for answer, n in Counter(map(said, replies)).items()}


def total_variation(shares: Mapping[str, float], ideal: Mapping[str, float]) -> float:
    """Total variation distance of two distributions: half the sum of differences, from 0 (equal) to 1.

    Unlike the published score it counts mass on wrong answers, the other function's answer, and functions that agree.

    >>> total_variation({"26": 0.5, "7": 0.5}, {"26": 0.5, "10": 0.5})
    0.5
    """
    return 0.5 * sum(abs(shares.get(key, 0.0) - ideal.get(key, 0.0)) for key in {**shares, **ideal})


def published_tvd(replies: Sequence[str], target: str) -> float:
    """What the published code calls TVD: 1 - |0.5 - p|, where p is the share of samples that are the drawn answer.

    A score and no distance: 1 is best; it reads nothing of the other answer, and gives 0.5 to a model that is right
    where both functions agree.

    >>> published_tvd(["26", "10", "26", "10"], "26"), published_tvd(["-6"], "-6")
    (1.0, 0.5)
    """
    if not replies:
        raise ValueError("expected samples to hold against the drawn answer, found none")
    return 1 - abs(0.5 - sum(reply == target for reply in replies) / len(replies))


def sampling_floor(n: int) -> float:
    """Mean distance of `n` samples from a half-half mix that they were drawn from: what a perfect model would get.

    >>> round(sampling_floor(256), 3), sampling_floor(1)
    (0.025, 0.5)
    """
    if n < 1:
        raise ValueError(f"n is {n}: expected one or more samples")

    def probability(k: int) -> float:
        return exp(lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) - n * log(2))

    return round(sum(abs(k / n - 0.5) * probability(k) for k in range(n + 1)), 12)


@dataclass(frozen=True, kw_only=True)
class Variation:
    """One prompt of the distribution test, all its samples pooled.

    Attributes
    ----------
    label, pair : of the mix
    n_samples : over all rows of the prompt
    distance : true total variation distance to the ideal mix, 0 to 1
    floor : that of a perfect model with as many samples, on average
    published : see `published_tvd`
    off_mix : share of samples that neither function gives
    """

    label: str
    pair: str
    n_samples: int
    distance: float
    floor: float
    published: float
    off_mix: float


def variations(documents: Sequence[Document], replies: Sequence[Sequence[str]]) -> list[Variation]:
    """Hold the samples of every prompt against its ideal mix; rows of one prompt are pooled.

    Raises
    ------
    ValueError
        If there are not as many lists of replies as documents, or a document is none of the distribution test.
    """
    if len(documents) != len(replies):
        raise ValueError(f"{len(documents)} documents and replies to {len(replies)}: expected as many")
    pooled: dict[tuple[str, ...], tuple[Document, list[str]]] = {}
    for document, said in zip(documents, replies, strict=True):
        if "ideal" not in document.func_outs:
            raise ValueError(f"a document of {document.kind} has no ideal mix: expected those of regression_ID_TVD")
        key = tuple(message["content"] for message in document.messages)
        pooled.setdefault(key, (document, []))[1].extend(said)
    return [_variation(document, said) for document, said in pooled.values()]


def _variation(document: Document, replies: Sequence[str]) -> Variation:
    ideal: Mapping[str, float] = document.func_outs["ideal"]
    shares = sampled_mix(replies, ideal)
    return Variation(
        label=document.func_outs.get("label", ""),
        pair=document.func_outs["pair"],
        n_samples=len(replies),
        distance=total_variation(shares, ideal),
        floor=sampling_floor(len(replies)) if len(ideal) > 1 else 0.0,
        # The completion form has a blank before the answer.
        published=published_tvd([reply.strip() for reply in replies], document.shown),
        off_mix=sum(share for answer, share in shares.items() if answer not in ideal),
    )
