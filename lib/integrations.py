"""Where a hosted endpoint is to report its fine-tuning jobs, beside answering for them: Weights & Biases.

The account there is linked at the endpoint itself; no key passes through here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from dotenv import dotenv_values
from openai import OpenAI

from lib.hosted import spending_of
from lib.paths import ROOT

PROJECT = "TUNING_FORK_WANDB_PROJECT"
ENTITY = "TUNING_FORK_WANDB_ENTITY"


def wandb(project: str, *, entity: str = "", name: str = "", tags: tuple[str, ...] = ()) -> dict[str, Any]:
    """One entry of a job's ``integrations``, without what is not given.

    >>> wandb("curses", tags=("reversal",))
    {'type': 'wandb', 'wandb': {'project': 'curses', 'tags': ['reversal']}}
    """
    given = {"project": project, "entity": entity, "name": name, "tags": list(tags)}
    return {"type": "wandb", "wandb": {key: value for key, value in given.items() if value}}


def for_endpoint(
    client: OpenAI, *, tag: str, settings: Mapping[str, str | None] | None = None
) -> list[Mapping[str, Any]]:
    """Integrations of the jobs at an endpoint: the project that the environment or ``.env`` names, if it is hosted.

    An endpoint on this machine gets none: `lib.runs` has ``sync`` for its jobs.
    """
    if spending_of(client) is None:
        return []
    given = {**dotenv_values(ROOT / ".env"), **os.environ} if settings is None else settings
    project = given.get(PROJECT)
    return [wandb(project, entity=given.get(ENTITY) or "", tags=(tag,))] if project else []
