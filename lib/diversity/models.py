"""Known open models, stage by stage, and a check that the loaded one is what its name says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from openai import NotFoundError, OpenAI

from lib.diversity.templates import is_chat
from lib.paths import DATA
from lib.tokens import lacks_model

MODELS_FILE = DATA / "diversity" / "models.yaml"
MAIN = "main"
# Fine-tunes may bring a token or two, a padded vocabulary or a value head (about 0.5%); the next Pythia is 40% larger.
TOLERANCE = 0.01


@dataclass(frozen=True)
class Known:
    """An open model as ``data/diversity/models.yaml`` declares it.

    Attributes
    ----------
    name : what to call it
    id : ``hf:`` and the hub's id
    revision : commit, branch or tag of the hub; ``main`` where none is pinned
    family : the base that its chain begins with
    stage : label of the stage
    n_parameters : weights that a model of this name must have
    template : form in which it is asked (`lib.diversity.templates`)
    """

    name: str
    id: str
    revision: str
    family: str
    stage: str
    n_parameters: int
    template: str

    @property
    def model_id(self) -> str:
        """The id to ask for, with the revision where one is pinned.

        >>> known_models()["pythia-2.8b-sft-epoch-1"].model_id
        'hf:lomahony/pythia-2.8b-helpful-sft-3epochs@1'
        """
        return self.id if self.revision == MAIN else f"{self.id}@{self.revision}"


@cache
def known_models(path: Path = MODELS_FILE) -> dict[str, Known]:
    """The open models by name, in the order of ``data/diversity/models.yaml``.

    Raises
    ------
    ValueError
        If a row lacks a field or has another one, names an unknown template, or a name or id comes twice.

    >>> [known.stage for known in known_models().values() if known.family == "410m"]
    ['base', 'SFT', 'DPO']
    """
    types = {field.name: int if field.name == "n_parameters" else str for field in fields(Known)}
    found: dict[str, Known] = {}
    ids: set[str] = set()
    for number, row in enumerate(yaml.safe_load(path.read_text(encoding="utf-8")), start=1):
        if not isinstance(row, dict) or {name: type(value) for name, value in row.items()} != types:
            raise ValueError(
                f"{path}, model {number}: found {row!r:.80}, expected {', '.join(types)}, all but one texts"
            )
        known = Known(**row)
        is_chat(known.template)
        if known.name in found or known.model_id in ids:
            raise ValueError(f"{path}, model {number}: {known.name} ({known.model_id}) stands there twice")
        found[known.name] = known
        ids.add(known.model_id)
    return found


def check_model(client: OpenAI, model_id: str, known: Known | None = None) -> str:
    """Refuse a model that has not as many weights as its name declares.

    Parameters
    ----------
    model_id : the model to ask, a local copy (``hf:<folder>``) for one
    known : what it is to be; without it, the known model of that id

    Returns
    -------
    str
        Empty if the model was checked, else a sentence that says why it was not.

    Raises
    ------
    ValueError
        If the number of weights differs by more than `TOLERANCE` (1%); says which families have as many.
    openai.NotFoundError
        If the endpoint has no such model.

    Notes
    -----
    The published 6.9b presets for SFT and DPO named models of 2.8b, which nobody noticed. Models of one size (Llama 2
    and the first LLaMA at 7b, a base and its fine-tunes) cannot be told apart in this way.
    """
    known = known or next((each for each in known_models().values() if each.model_id == model_id), None)
    if known is None:
        return f"{model_id} was not checked: data/diversity/models.yaml does not say how many weights it has."
    n_weights = _about(client, model_id).get("n_weights")
    if n_weights is None:
        return f"{model_id} was not checked: the endpoint does not tell how many weights it has."
    if n_weights == 0:
        raise ValueError(
            f"{model_id} has no safetensors, and no others are read: name a revision that has (@refs/pr/1)"
        )
    if not _as_many(n_weights, known.n_parameters):
        alike = [each.family for each in known_models().values() if _as_many(n_weights, each.n_parameters)]
        like = f", as {' and '.join(dict.fromkeys(alike))} have" if alike else ""
        raise ValueError(
            f"{model_id} has {n_weights:,} weights{like}; expected {known.n_parameters:,} for {known.name}: "
            "another model stands behind that id, correct it"
        )
    return ""


def same_tokenizer(client: OpenAI, ids: Sequence[str]) -> str | None:
    """The tokenizer that the models of a chain share, as the hash that the endpoint tells; None where it does not.

    Raises
    ------
    ValueError
        If two of them cut text into different tokens: what is measured of tokens cannot be compared then.
    """
    about = {model_id: _about(client, model_id) for model_id in dict.fromkeys(ids)}
    hashes = [facts.get("tokenizer") for facts in about.values()]
    for field in ("tokenizer", "vocab_tokens") if None in hashes else ("tokenizer",):
        told = [model_id for model_id, facts in about.items() if facts.get(field) is not None]
        for model_id in told[1:]:
            if about[model_id][field] != about[told[0]][field]:
                raise ValueError(
                    f"{told[0]} and {model_id} have different tokenizers ({_size(about[told[0]])} and "
                    f"{_size(about[model_id])}): measures of their tokens cannot be compared; choose stages of one base"
                )
    return hashes[0] if hashes and None not in hashes else None


def _size(facts: Mapping[str, Any]) -> str:
    return f"{facts.get('vocab_tokens') or 'unknown'} tokens"


def _about(client: OpenAI, model_id: str) -> dict[str, Any]:
    try:
        return client.models.retrieve(model_id).model_dump()
    except NotFoundError as error:
        if lacks_model(error):
            raise
        return {}


def _as_many(n_weights: int, declared: int) -> bool:
    return abs(n_weights - declared) <= TOLERANCE * declared
