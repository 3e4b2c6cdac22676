"""Which models a run blends, and whether they can be blended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from openai import NotFoundError, OpenAI

from lib.params import active_bases
from lib.paths import from_root
from lib.world.bases import bases_from_text, make_base


def base_ids(params: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Ids of the small base and of the big models; with ``general``, plain ``fork-*`` ones are made from that text.

    ``size_bases`` are further big models from three seeds on.

    Raises
    ------
    ValueError
        If there is no big model, or a base cannot be made.
    """
    base, *further = active_bases(params)
    names = [base, *dict.fromkeys([*params["bigs"], *further])]
    if len(names) < 2:
        raise ValueError("bigs is empty: name at least one big model")
    text, made = from_root(params["general"]), {}
    for name, tokenizer in bases_from_text(params).items():
        made[name] = make_base(name, text, tokenizer=tokenizer)
    small, *bigs = [":".join([made.get(name, name), *rest]) for name, *rest in (each.split(":") for each in names)]
    return small, bigs


def blends_of(models: pd.DataFrame) -> pd.DataFrame:
    """The blends of a run: ``big``, ``tuned``, ``base``, ``direct`` (empty for none) and ``seed``, one row each.

    Parameters
    ----------
    models : with ``role`` (base, big, tuned, direct), ``model``, ``base`` and ``seed``. The first big model is steered
        by every tuned model, a further one by the first.
    """
    final = models[models["is_final"].astype(bool)]
    of = {role: rows for role, rows in final.groupby("role", sort=False)}
    tuned, bigs = of["tuned"][["seed", "model"]], of["big"]["model"].tolist()
    direct = of.get("direct", final.iloc[:0])
    rows = []
    for number, big in enumerate(bigs):
        own = direct[direct["base"] == big].set_index("seed")["model"]
        for seed, model in list(tuned.itertuples(index=False))[: None if number == 0 else 1]:
            best = own.get(seed, own.iloc[0] if len(own) else "")  # one that was given has a single seed
            rows.append({"big": big, "tuned": model, "base": of["base"]["model"].iloc[0], "direct": best, "seed": seed})
    return pd.DataFrame(rows)


def check_models(
    client: OpenAI, *, base: str, bigs: Sequence[str], tuned: Sequence[str] = (), longest: int,
    allow_unrelated: bool = False,
) -> None:  # fmt: skip
    """Refuse models whose blend would mean nothing; what an endpoint does not report is not checked.

    Parameters
    ----------
    longest : tokens of the longest context
    allow_unrelated : accept a tuned model that was not made from `base`, as the published one was not

    Raises
    ------
    ValueError
        If tokenizers differ, a context is longer than a model's, or a tuned model's parent is not the base.
    """
    about = {model: client.models.retrieve(model).model_dump() for model in dict.fromkeys([base, *tuned, *bigs])}
    for model, facts in about.items():
        kinds = {facts.get("tokenizer"), about[base].get("tokenizer")} - {None}
        if len(kinds) > 1:
            raise ValueError(
                f"{model} and {base} have different tokenizers and cannot be blended: choose models of one family, or "
                f"pre-train a base with `python -m tuning_server pretrain NAME --tokenizer {model} --corpus TEXT`"
            )
        most = facts.get("context_tokens")
        if most and longest >= most:
            raise ValueError(f"{longest} tokens and the target are too long for {model}, which reads {most} tokens")
    for model in tuned:
        parent = about[model].get("parent")
        if allow_unrelated or parent == base or (parent and _weights(client, parent) == _weights(client, base) != ""):
            continue
        why = f"was made from {parent}" if parent else "does not say what it was made from"
        raise ValueError(
            f"{model} {why}, not from {base}: the difference between the two would not be the tuning; set base to its "
            "parent, or allow_unrelated=true"
        )


def _weights(client: OpenAI, model: str) -> str:
    """Hash of a model's weights, whatever it is called; empty where the endpoint does not report one."""
    try:
        fingerprint = client.models.retrieve(model).model_dump().get("fingerprint")
    except NotFoundError:
        return ""
    return str(fingerprint or "").rpartition("-")[2]
