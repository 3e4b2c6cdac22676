"""The measures of diversity pair by pair, as they are usually written: everything taken apart anew for every pair."""

from __future__ import annotations

import gzip
import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations, permutations

import numpy as np

from lib.diversity.answers import answer_of, holds_answer

Embed = Callable[[Sequence[str]], np.ndarray]
Similarity = Callable[[str, str], float]
ORDERS = (2, 3, 4, 5, 6)


def ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[k : k + n]) for k in range(len(words) - n + 1)]


def jaccard(n: int, one: str, other: str) -> float:
    a, b = set(ngrams(one.lower().split(), n)), set(ngrams(other.lower().split(), n))
    if not a | b:
        return float(one.lower().split() == other.lower().split())
    return len(a & b) / len(a | b)


def bleu(text: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    logs = []
    for n in range(1, 5):
        counts = Counter(ngrams(text, n))
        most: Counter[tuple[str, ...]] = Counter()
        for reference in references:
            most |= Counter(ngrams(reference, n))
        matched = sum(min(count, most[ngram]) for ngram, count in counts.items())
        if n == 1 and not matched:
            return 0.0
        logs.append(math.log((matched or 0.1) / max(1, sum(counts.values()))))
    closest = min((abs(len(reference) - len(text)), len(reference)) for reference in references)[1]
    return math.exp(sum(logs) / 4) * (1 if len(text) > closest else math.exp(1 - closest / len(text)))


def self_bleu(texts: Sequence[str]) -> float:
    words = [text.split() for text in texts]
    return float(np.mean([bleu(words[k], words[:k] + words[k + 1 :]) for k in range(len(words))]))


def packed(text: str) -> int:
    return len(gzip.compress(text.encode()))


def ncd(one: str, other: str) -> float:
    least, most = sorted((packed(one), packed(other)))
    return (packed(f"{one} {other}") - least) / most


def ratio(texts: Sequence[str]) -> float:
    return packed(" ".join(texts)) / len(" ".join(texts).encode())


def edits(one: str, other: str) -> float:
    a, b = one.lower().split(), other.lower().split()
    row = list(range(len(b) + 1))
    for i, word in enumerate(a, start=1):
        before, row[0] = row[0], i
        for j, said in enumerate(b, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (word != said))
    return row[-1] / max(1, len(a), len(b))


def order(matrix: np.ndarray, q: int) -> float:
    mean = np.mean([np.mean(row) ** (q - 1) for row in matrix])
    return float(mean ** (1 / (1 - q))) if mean > 0 else math.nan


def order_drawn(similar: Similarity, texts: Sequence[str], q: int, seed: int) -> float:
    draws = np.random.default_rng([seed, q, len(texts)]).integers(len(texts), size=(50, q))
    groups = [math.prod(similar(texts[first], texts[k]) for k in rest) for first, *rest in draws.tolist()]
    return float(np.mean(groups) ** (1 / (1 - q))) if np.mean(groups) > 0 else math.nan


def similarities(similar: Similarity, texts: Sequence[str]) -> np.ndarray:
    matrix = np.zeros((len(texts), len(texts)))
    for i in range(len(texts)):
        for j in range(i, len(texts)):
            matrix[i, j] = matrix[j, i] = similar(texts[i], texts[j])
    return matrix


def vendi(matrix: np.ndarray) -> float:
    values = np.linalg.eigvalsh(matrix / len(matrix))
    values = values[values > 0]
    return float(np.exp(-(values * np.log(values)).sum()))


def measures(texts: Sequence[str], embed: Embed | None, n_vocabulary: int, *, seed: int = 0) -> dict[str, float]:
    """All measures of one cell but those of answers and of other prompts."""

    def cosine(one: str, other: str) -> float:
        assert embed is not None
        a, b = np.asarray(embed([one, other]), dtype=float)
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    pairs = list(combinations(texts, 2))
    others = [[*texts[:k], *texts[k + 1 :]] for k in range(len(texts))]
    whole = [ratio([*rest, text]) for rest, text in zip(others, texts, strict=True)]
    words = [text.lower().split() for text in texts]
    found = {
        "self_bleu": self_bleu(texts),
        "ncd": float(np.mean([ncd(one, other) for one, other in permutations(texts, 2)])),
        "compression_ratio_full": float(np.mean([ratio(rest) for rest in others]) - np.mean(whole)),
        "compression_ratio_target": float(np.mean([ratio([text]) for text in texts]) - np.mean(whole)),
        "edit_distance": float(np.mean([edits(one, other) for one, other in pairs])),
        "distinct_texts": len(set(texts)) / len(texts),
    }
    for n in (2, 3, 4):
        found[f"jaccard_{n}"] = float(np.mean([jaccard(n, one, other) for one, other in pairs]))
    for n in (1, 2, 3):
        said = [ngram for each in words for ngram in ngrams(each, n)]
        found[f"distinct_{n}"] = len(set(said)) / len(said)
    said = [word for each in words for word in each]
    found["ead"] = len(set(said)) / (n_vocabulary * (1 - ((n_vocabulary - 1) / n_vocabulary) ** len(said)))
    kernels: dict[str, Similarity] = {"jaccard_2": lambda one, other: jaccard(2, one, other)}
    if embed is not None:
        kernels["cosine"] = cosine
        found["cosine"] = float(np.mean([cosine(one, other) for one, other in pairs]))
    for name, similar in kernels.items():
        matrix = similarities(similar, texts)
        found[f"vendi_{name}"] = vendi(matrix)
        for q in ORDERS:
            found[f"order_{q}_{name}"] = order(matrix, q)
            found[f"order_{q}_{name}_drawn"] = order_drawn(similar, texts, q, seed)
    return found


def answers(texts: Sequence[str], accepted: Sequence[str]) -> dict[str, float]:
    shares = np.array(list(Counter(answer_of(text, accepted) for text in texts).values())) / len(texts)
    return {
        "answer_entropy": float(-(shares * np.log(shares)).sum()),
        "accuracy": float(np.mean([holds_answer(text, accepted) for text in texts])),
    }


def self_repetition(texts: Sequence[str], others: Sequence[str]) -> float:
    """Share of each text's 4-grams that a text to another prompt holds, each pair of texts looked through."""
    found, held = [], [set(ngrams(other.lower().split(), 4)) for other in others]
    for text in texts:
        own = set(ngrams(text.lower().split(), 4))
        if own:
            again = set().union(*(own & each for each in held))
            found.append(len(again) / len(own))
    return float(np.mean(found)) if found else math.nan
