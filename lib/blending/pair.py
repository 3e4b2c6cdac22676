"""Check that models can be blended: one tokenizer, contexts long enough, a base that the tuned one was made from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from openai import NotFoundError, OpenAI


def check_models(
    client: OpenAI, *, base: str, tuned: Sequence[str], bigs: Sequence[str], longest: int, allow_unrelated: bool = False
) -> None:
    """Refuse models whose blend would mean nothing.

    Parameters
    ----------
    base, tuned, bigs : model ids
    longest : tokens of the longest context
    allow_unrelated : let a tuned model pass that was not made from `base`, as the published pair was not

    Raises
    ------
    ValueError
        If tokenizers differ, a context is longer than a model's, or a tuned model's parent is not the base.

    Notes
    -----
    What an endpoint does not tell (a hosted one names neither tokenizer nor context) is not checked, but a parent that
    it does not tell has to be allowed.
    """
    about = {model: client.models.retrieve(model).model_dump() for model in dict.fromkeys([base, *tuned, *bigs])}
    for model, facts in about.items():
        if _differ(facts, about[base], "tokenizer"):
            raise ValueError(
                f"{model} and {base} have different tokenizers: their tokens cannot be blended; "
                "choose models of one family"
            )
        most = facts.get("context_tokens")
        if most and longest >= most:
            raise ValueError(
                f"a context of {longest} tokens and its target are too long for {model}, which reads {most}"
            )
    for model in tuned:
        parent = about[model].get("parent")
        if allow_unrelated or parent == base or (parent and _weights(client, parent) == _weights(client, base) != ""):
            continue
        told = f"was made from {parent}" if parent else "does not say what it was made from"
        raise ValueError(
            f"{model} {told}, not from {base}: the difference between the two would not be the tuning; "
            "set base to its parent, or allow_unrelated=true"
        )


def _weights(client: OpenAI, model: str) -> str:
    """Hash of a model's weights, whatever it is called; empty where the endpoint does not tell it or lost the model."""
    try:
        mark = client.models.retrieve(model).model_dump().get("fingerprint")
    except NotFoundError:
        return ""
    return str(mark or "").rpartition("-")[2]


def _differ(one: dict[str, Any], other: dict[str, Any], field: str) -> bool:
    return one.get(field) is not None and other.get(field) is not None and one[field] != other[field]
