"""Evaluate fine-tunes that no run has numbers of: each as ``tuned_model`` of its study, in a run folder of its own."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from lib.params import resolve, studies
from lib.run import Plan, StageFailed, plan_run, run_plan
from lib.runs.ledger import NOT_LISTED, FineTuned

log = logging.getLogger(__name__)

PRESET = "laptop"
NOT_CARRIED = {"out", "preset", "n_seeds", "tuned_model"}
REFERENCE = "direct"  # role of a model that is only there to be compared with: its own run has its numbers


def evaluations(
    chosen: Iterable[FineTuned], *, study: str = "", preset: str = "", sets: Sequence[str] = (), by_name: bool = False
) -> list[tuple[FineTuned, Plan]]:
    """The runs that evaluate what was not evaluated yet; what is left out is logged.

    A fine-tune that a run had made is evaluated with that run's values, so that it is asked about what it learned.

    Parameters
    ----------
    study : of fine-tunes that neither a run folder nor a suffix assigns to one
    preset : if not that of the run that made it, nor ``laptop``
    sets : ``key=value``, over all others
    by_name : whether the fine-tunes were named one by one: then one that cannot be evaluated is a `ValueError`
    """
    plans = []
    for each in chosen:
        if reason := _why_not(each, study):
            if by_name and not each.evaluated_in:
                raise ValueError(f"{each.title}: {reason}")
            log.info("%s: %s", each.title, reason)
        else:
            plans.append((each, _plan(each, study or each.study, preset, sets)))
    return plans


def _why_not(each: FineTuned, study: str) -> str:
    """Why a fine-tune is not evaluated, empty if it is."""
    if not each.model or each.status not in ("succeeded", NOT_LISTED):
        return f"the job is {each.status}, there is no model to evaluate"
    if each.evaluated_in:
        return f"already evaluated in {', '.join(each.evaluated_in)}"
    if each.made_by and each.made_by.models[each.model].role == REFERENCE:
        return f"made as the reference of {each.made_by.name}: run that one"
    return "" if (study or each.study) in studies() else "it belongs to no study: give --study"


def _plan(each: FineTuned, study: str, preset: str, sets: Sequence[str]) -> Plan:
    made_by = each.made_by if each.made_by and each.made_by.study == study else None
    preset = preset or (made_by.preset if made_by else PRESET)
    defaults = resolve(study, preset)
    if "tuned_model" not in defaults:
        raise ValueError(f"{study} takes no existing fine-tune: it has no parameter tuned_model")
    made_with = {**(made_by.params if made_by else {}), **({"base": each.base} if each.base else {})}
    carried = {name: made_with[name] for name in defaults.keys() & made_with.keys() - NOT_CARRIED}
    changed = {name: value for name, value in carried.items() if value != defaults[name]}
    return plan_run(study, preset=preset, values=changed | {"tuned_model": each.model}, sets=sets, seeds=1)


def evaluate(plans: Iterable[tuple[FineTuned, Plan]]) -> int:
    """Run them one after the other, whatever becomes of the one before; returns how many failed."""
    n_failed = 0
    for each, plan in plans:
        log.info("evaluating %s in %s", each.model, plan.folder)
        try:
            run_plan(plan)
        except (StageFailed, OSError) as error:
            log.error("%s: %s", each.model, error)
            n_failed += 1
    return n_failed
