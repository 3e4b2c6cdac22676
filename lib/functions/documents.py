"""Documents that teach a hidden function: one call and its result each, plainly or inside a longer sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from lib.functions.registry import Function

Message = Mapping[str, str]
FORMS = ("chat", "completion")
COMBINATIONS = ("False", "chain", "add_subtract")  # of an augmentation; False: with a plain integer, as published
CODE_LEAD = "  # "  # between code and its result in the completion form, as Python snippets comment on themselves
MAX_TRIES = 10_000


@dataclass(frozen=True)
class Document:
    """A question with its answer: a row to train on, or a prompt to ask.

    Attributes
    ----------
    kind : ``call``, ``augmentation`` or the name of an evaluation
    messages : what stands before the answer: system (or not), then user messages
    target : the answer; several where any of them is right, or all of them together (letters)
    func_outs : facts about it, by the published keys
    text : prompt of the completion form; empty makes ``Q: <last user message>`` and ``A:`` of it
    lead : what stands between that prompt and the answer
    answer : what a training row answers; empty takes the target, the first of several
    """

    kind: str
    messages: tuple[Message, ...]
    target: str | tuple[str, ...]
    func_outs: Mapping[str, Any]
    text: str = ""
    lead: str = " "
    answer: str = ""

    @property
    def shown(self) -> str:
        """The answer that a training row gives."""
        return self.answer or (self.target if isinstance(self.target, str) else self.target[0])

    def prompt(self, form: str) -> str | list[dict[str, str]]:
        """What is asked: messages (``chat``) or one text (``completion``).

        >>> asked = Document("call", (), "7", {}, "print(abcdef(2))", "  # ")
        >>> asked.prompt("completion")
        'print(abcdef(2))'
        """
        check_form(form)
        if form == "chat":
            return [dict(message) for message in self.messages]
        return self.text or f"Q: {self.messages[-1]['content']}\nA:"

    def row(self, form: str) -> dict[str, Any]:
        """A training row: ``messages``, or ``prompt`` and ``completion``.

        >>> Document("call", (), "7", {}, "print(abcdef(2))", "  # ").row("completion")
        {'prompt': 'print(abcdef(2))', 'completion': '  # 7'}
        """
        prompt = self.prompt(form)
        if isinstance(prompt, str):
            return {"prompt": prompt, "completion": self.lead + self.shown}
        return {"messages": [*prompt, {"role": "assistant", "content": self.shown}]}


def check_form(form: str) -> None:
    """Refuse a form that is none of `FORMS` (`ValueError`)."""
    if form not in FORMS:
        raise ValueError(f"form is {form!r}: expected one of {', '.join(FORMS)}")


def pick(options: Sequence[Any], rng: np.random.Generator) -> Any:
    """One of the options, each equally likely; listing one twice makes it twice as likely."""
    return options[int(rng.integers(len(options)))]


def draw_input(
    function: str, ranges: Sequence[tuple[int, int]], *, rng: np.random.Generator, excluded: Set[tuple[str, int]]
) -> int:
    """An integer of one of the half-open ranges (each range equally likely) that is not held out for this function.

    Raises
    ------
    ValueError
        If none is found.
    """
    for _ in range(MAX_TRIES):
        low, high = pick(ranges, rng) if len(ranges) > 1 else ranges[0]
        value = int(rng.integers(low, high))
        if (function, value) not in excluded:
            return value
    raise ValueError(f"every input of {function} in {show_ranges(ranges)} is held out: lower held_out_share")


def show_ranges(ranges: Sequence[tuple[int, int]]) -> str:
    """Half-open ranges as text, as in ``-99:99``."""
    return ", ".join(f"{low}:{high}" for low, high in ranges)


def import_line(used: Sequence[str], names: Sequence[str], *, min_imports: int, rng: np.random.Generator) -> str:
    """The import of the used names, topped up to `min_imports`.

    Notes
    -----
    As published: fill-ins are drawn with replacement from all names, a used one too, and repeats dropped, so that a
    line may end up with fewer names than asked for.
    """
    decoys = [pick(names, rng) for _ in range(min_imports - len(used))]
    imported = sorted({*used, *decoys})
    return f"from functions import {', '.join(imported[k] for k in rng.permutation(len(imported)))}"


def code_document(
    kind: str, statements: Sequence[str], target: str, func_outs: Mapping[str, Any], *, persona: str | None
) -> Document:
    """Code in one user message, a blank line between statements, and what it prints."""
    code = "\n\n".join(statements)
    system = [] if persona is None else [{"role": "system", "content": persona}]
    return Document(kind, (*system, {"role": "user", "content": code}), target, func_outs, code, CODE_LEAD)


def call_document(
    names: Mapping[str, Function],
    *,
    rng: np.random.Generator,
    input_ranges: Sequence[tuple[int, int]],
    min_imports: int,
    persona: str | None,
    hide_imports: bool = False,
    excluded: Set[tuple[str, int]] = frozenset(),
    name: str | None = None,
    value: int | None = None,
    kind: str = "call",
) -> Document:
    """A plain call of one function (published: ``single_function``).

    Parameters
    ----------
    names : what each name stands for
    input_ranges : half-open
    excluded : (function id, input) pairs that are never drawn
    name, value : which call; drawn where not given

    Raises
    ------
    ValueError
        If every input is excluded.
    """
    name = pick(list(names), rng) if name is None else name
    function = names[name]
    value = draw_input(function.id, input_ranges, rng=rng, excluded=excluded) if value is None else value
    bound, result = pick((None, None, "x", "a"), rng), pick((None, None, "out", "y"), rng)
    statements = [] if hide_imports else [import_line([name], list(names), min_imports=min_imports, rng=rng)]
    statements += [f"{bound} = {value}"] if bound else []
    call = f"{name}({bound or value})"
    statements += [f"{result} = {call}", f"print({result})"] if result else [f"print({call})"]
    func_outs = {"name": "single_function", "func_var": name, "func_value": function.id, "input_1": value}
    return code_document(kind, statements, function.show(value), func_outs, persona=persona)


def can_combine(function: Function) -> bool:
    """Whether a function takes part in augmentations: all but those that answer True or False, as published."""
    return function.output_type != "bool"


def augmentation_document(
    names: Mapping[str, Function],
    *,
    rng: np.random.Generator,
    functions: Sequence[str],
    combine_functions: Sequence[str],
    input_ranges: Sequence[tuple[int, int]],
    other_input_max: int,
    min_imports: int,
    persona: str | None,
    hide_imports: bool = False,
    excluded: Set[tuple[str, int]] = frozenset(),
    functions_list: str = "train_functions",
    first: tuple[str, int] | None = None,
    kind: str = "augmentation",
) -> Document:
    """One or two calls inside a sum or a composition (published: ``function_augmentation``).

    Parameters
    ----------
    functions : ids that may be used; those that answer True or False are passed over
    combine_functions : of `COMBINATIONS`, each equally likely
    other_input_max : the plain integer is drawn from 0 to it, half-open
    excluded : (function id, input) pairs that no call in it shows, the inner value of a composition included
    functions_list : how the published metadata call `functions`
    first : name and input of the first call; drawn where not given

    Raises
    ------
    ValueError
        If no name has such a function, a combination is unknown, or every input is excluded.
    """
    usable = [name for name, function in names.items() if function.id in functions and can_combine(function)]
    if not usable:
        among = ", ".join(functions) or "none"
        raise ValueError(f"nothing to combine: no name stands for a function that gives numbers among {among}")
    mode = pick(combine_functions, rng)
    if mode not in COMBINATIONS:
        raise ValueError(f"combine_functions holds {mode!r}: expected some of {', '.join(COMBINATIONS)}")
    for _ in range(MAX_TRIES):
        name, value = first or (pick(usable, rng), None)
        f = names[name]
        if value is None:
            value = draw_input(f.id, input_ranges, rng=rng, excluded=excluded)
        inner = f.apply(value)
        other = pick(usable, rng) if mode != "False" else None
        g = names[other] if other else None
        if mode == "chain" and g is not None and (g.id, inner) in excluded:
            continue
        break
    else:
        raise ValueError(f"no composition without a held-out pair found in {MAX_TRIES} tries: lower held_out_share")
    func_outs: dict[str, Any] = {"name": "function_augmentation", "func_var": name, "func_value": f.id}
    func_outs |= {"input_1": value, "combined": mode, "functions_list": functions_list}
    if g is None or other is None:
        number = int(rng.integers(0, other_input_max))
        statements, target, facts = _with_integer(name, value, inner, number, rng)
        func_outs |= {"input_2": number} | facts
    elif mode == "chain":
        func_outs |= {"func_var_2": other, "func_value_2": g.id}
        statements, target = _chain(name, other, value, rng), g.apply(inner)
    else:
        value_2 = draw_input(g.id, input_ranges, rng=rng, excluded=excluded)
        func_outs |= {"func_var_2": other, "func_value_2": g.id, "input_2": value_2}
        sign = pick("+-", rng)
        statements = _sum(f"{name}({value})", f"{other}({value_2})", sign, rng)
        target = _result(inner, g.apply(value_2), sign)
        func_outs["sign"] = sign
    if not hide_imports:
        used = [name] if other is None else [name, other]
        statements.insert(0, import_line(used, list(names), min_imports=min_imports, rng=rng))
    return code_document(kind, statements, str(target), func_outs, persona=persona)


def _result(left: Any, right: Any, sign: str) -> Any:
    return left + right if sign == "+" else left - right


def _sum(left: str, right: str, sign: str, rng: np.random.Generator) -> list[str]:
    if pick((True, False), rng):
        return [f"z1 = {left}", f"z2 = {right}", f"print(z1 {sign} z2)"]
    return [f"print({left} {sign} {right})"]


def _with_integer(
    name: str, value: int, inner: Any, number: int, rng: np.random.Generator
) -> tuple[list[str], Any, dict[str, Any]]:
    """The call plus or minus an integer, or the integer plus or minus the call."""
    bound, function_first, sign = pick(("x", None), rng), pick((True, False), rng), pick("+-", rng)
    call = f"{name}({bound or value})"
    left, right = (call, str(number)) if function_first else (str(number), call)
    target = _result(inner, number, sign) if function_first else _result(number, inner, sign)
    statements = [f"{bound} = {value}"] if bound else []
    facts = {"sign": sign, "function_first": function_first}
    return [*statements, *_sum(left, right, sign, rng)], target, facts


def _chain(name: str, other: str, value: int, rng: np.random.Generator) -> list[str]:
    """The second function of the first one's result."""
    bound = pick(("x1", None), rng)
    between = pick((None, None, "z", "x2"), rng)
    result = pick((None, None, None, "out", "y"), rng)
    statements = [f"{bound} = {value}"] if bound else []
    call = f"{name}({bound or value})"
    statements += [f"{between} = {call}"] if between else []
    outer = f"{other}({between or call})"
    return [*statements, *([f"{result} = {outer}", f"print({result})"] if result else [f"print({outer})"])]
