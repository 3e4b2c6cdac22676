"""Money for fine-tuning jobs, from the same budget as what is asked."""

from __future__ import annotations

import json
import logging
import math
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from openai import APIStatusError, OpenAI
from openai.types.fine_tuning import FineTuningJob

from lib.budget import BudgetExceeded
from lib.hosted import spending_of
from lib.prices import estimated_tokens

log = logging.getLogger(__name__)


class JobCosts:
    """Reserves what jobs on one file may cost before the first is made; does nothing where nothing costs money.

    Parameters
    ----------
    training_file : JSON lines of prompt and completion, of messages, or of pairs of answers; the validation file is not
        billed
    """

    def __init__(self, client: OpenAI, training_file: Path) -> None:
        self.ledger, self.training_file = spending_of(client), training_file
        self._reserved: dict[str, str] = {}

    def reserve(self, wanted: Mapping[str, tuple[str, int]]) -> None:
        """Reserve money for jobs, all or none, and say in one line how much.

        Parameters
        ----------
        wanted : content key of a job to its base and number of epochs

        Raises
        ------
        lib.budget.BudgetExceeded
            If they could pass the budget together.
        lib.prices.UnknownPrice
            If training a base has no price.
        """
        if self.ledger is None or not wanted:
            return
        n_tokens = file_tokens(self.training_file)
        usd = {key: self.ledger.prices.training_usd(base, n_tokens * epochs) for key, (base, epochs) in wanted.items()}
        for key in wanted:  # of a run that was killed before the job was made
            for left_over in self.ledger.unanswered(f"job:{key}:"):
                self.ledger.release(left_over)
        log.warning(
            "fine-tuning: %d jobs of about %s tokens an epoch: about $%.4f, $%.4f of $%.4f left",
            len(wanted), f"{n_tokens:,}", math.fsum(usd.values()), max(0, self.ledger.left_usd()),
            self.ledger.budget_usd,
        )  # fmt: skip
        try:
            for key, (base, _) in wanted.items():
                ledger_key = f"job:{key}:{uuid.uuid4().hex[:8]}"
                self.ledger.reserve(ledger_key, usd[key], wait=False, model=base)
                self._reserved[key] = ledger_key
        except BudgetExceeded:
            self._release_all()
            raise

    def create(self, key: str, make: Callable[[], FineTuningJob]) -> FineTuningJob:
        """Make a job whose money is reserved; when the endpoint refuses it, this and all later ones cost nothing."""
        ledger_key = self._reserved.pop(key, None)
        try:
            return make()
        except BaseException as error:
            if self.ledger and ledger_key and isinstance(error, APIStatusError):
                self.ledger.release(ledger_key)
            self._release_all()
            raise

    def settle(self, key: str, job: FineTuningJob) -> None:
        """Count a job that succeeded, if it was paid from this ledger."""
        if self.ledger is None:
            return
        for ledger_key in self.ledger.unanswered(f"job:{key}:"):
            n_tokens = job.trained_tokens
            usd = self.ledger.most_usd(ledger_key)
            if n_tokens is not None:
                usd = self.ledger.prices.training_usd(job.model, n_tokens)
            self.ledger.settle([{"id": ledger_key, "model": job.model, "training_tokens": n_tokens, "usd": usd}])

    def _release_all(self) -> None:
        """What was reserved for jobs that are not made."""
        while self.ledger and self._reserved:
            self.ledger.release(self._reserved.popitem()[1])


def file_tokens(path: Path) -> int:
    """Tokens of a training file, estimated by its characters: all texts of its rows, names of roles left out."""
    with path.open(encoding="utf-8") as file:
        return sum(estimated_tokens(text) for line in file if line.strip() for text in _texts(json.loads(line)))


def _texts(row: Mapping[str, Any]) -> Iterator[str]:
    if "input" in row:  # a pair of answers: each is trained on behind what was asked
        asked = row["input"]["messages"]
        rows = [*asked, *row["preferred_output"], *asked, *row["non_preferred_output"]]
    elif "chosen" in row:
        rows = [row, {"prompt": row.get("prompt")}]
    else:
        rows = row["messages"] if isinstance(row.get("messages"), list) else [row]
    for each in rows:
        names = ("prompt", "completion", "chosen", "rejected", "content")
        yield from (str(each[name]) for name in names if each.get(name))
