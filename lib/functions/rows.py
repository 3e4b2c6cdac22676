"""Documents that teach hidden functions, and how documents and questions are rendered.

A *document* is a dict that JSON can hold: its ``kind``, the ``messages`` before the answer, the same as one ``text``
for the completion form with the ``lead`` between it and the answer, the ``target`` (several right answers are joined by
", "), the ``answer`` that a training row gives, and facts about it (``name``, ``function``, ``input``, ...).
`as_request` renders what is sent to a model; `training_row` adds the answer to it, so that questions and training rows
have one form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lib.functions.registry import Function, FunctionSet, Range

Document = dict[str, Any]
FORMS = ("chat", "completion", "text")  # text: the words of a chat as one text, for a model that does not chat
COMBINATIONS = ("False", "chain", "add_subtract")  # of an augmentation; False: with a plain integer, as published
CODE_LEAD = "  # "  # between code and its result in the completion form, as Python snippets comment on themselves
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MAX_TRIES = 10_000
IMPORT = "from functions import "


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """What one fine-tune hides: the names, what each stands for, and what training does not show of them.

    Attributes
    ----------
    functions : the set, with its ranges
    names : what each name stands for
    realized : names that training asks about; the others are *unrealized*
    held_out : (function id, input) pairs that no training row shows
    system : system message of every conversation; empty for none
    hide_imports : leave the import line away
    """

    functions: FunctionSet
    names: Mapping[str, Function]
    realized: frozenset[str] = frozenset()
    held_out: frozenset[tuple[str, int]] = frozenset()
    system: str = ""
    hide_imports: bool = False

    def part(self, part: str) -> Hidden:
        """The same with the realized or the unrealized names alone."""
        is_realized = {"realized": True, "unrealized": False}[part]
        kept = {name: function for name, function in self.names.items() if (name in self.realized) == is_realized}
        return replace(self, names=kept)

    @property
    def parts(self) -> list[str]:
        """The parts that have names; in the published form all are unrealized."""
        return [part for part in ("realized", "unrealized") if self.part(part).names]

    def imports(self, used: Sequence[str], *, min_imports: int, rng: np.random.Generator) -> list[str]:
        """The import of the used names as a line; none where imports are hidden."""
        return [] if self.hide_imports else [import_line(used, list(self.names), min_imports=min_imports, rng=rng)]


def import_line(used: Sequence[str], names: Sequence[str], *, min_imports: int, rng: np.random.Generator) -> str:
    """The import of the used names, topped up to `min_imports` names.

    As published: decoys are drawn with replacement from all names, a used one too, and repeats dropped, so that a line
    may end up with fewer names.
    """
    decoys = [pick(names, rng) for _ in range(min_imports - len(used))]
    imported = sorted({*used, *decoys})
    return IMPORT + ", ".join(imported[k] for k in rng.permutation(len(imported)))


def document(
    kind: str,
    messages: Sequence[Mapping[str, str]],
    text: str,
    target: str,
    *,
    lead: str = " ",
    answer: str = "",
    **facts: Any,
) -> Document:
    """A document; a training row answers with the target where no `answer` is given."""
    made = {"kind": kind, "messages": list(messages), "text": text, "lead": lead, "target": target}
    return made | {"answer": answer or target} | facts


def as_request(document: Document, form: str) -> dict[str, Any]:
    """A document as fields of a request: ``prompt``, ``messages`` (of a conversation) and ``lead``.

    >>> as_request(document("call", [], "print(abcdef(2))", "7", lead=CODE_LEAD), "completion")
    {'prompt': 'print(abcdef(2))', 'messages': (), 'lead': '  # '}
    """
    if form not in FORMS:
        raise ValueError(f"form is {form!r}: expected one of {', '.join(FORMS)}")
    if form != "chat":
        text = document["text"] if form == "completion" else _as_text(document)
        return {"prompt": text, "messages": (), "lead": document["lead"]}
    messages = tuple((message["role"], message["content"]) for message in document["messages"])
    return {"prompt": "\n\n".join(f"[{role}] {text}" for role, text in messages), "messages": messages, "lead": ""}


def _as_text(document: Document) -> str:
    """The user messages as one text, with the result after every code that an assistant message answers."""
    texts = [""]
    for message in document["messages"]:
        if message["role"] == "assistant":
            texts[-1] += CODE_LEAD + message["content"]
            texts.append("")
        elif message["role"] == "user":
            texts[-1] += ("\n\n" if texts[-1] else "") + message["content"]
    asks = texts[-1] if document["lead"] == CODE_LEAD else document.get("as_code") or f"Q: {texts[-1]}\nA:"
    return "\n\n".join([*texts[:-1], asks])


def training_row(document: Document, form: str) -> dict[str, Any]:
    """A training row: the request, and the answer.

    >>> training_row(document("call", [], "print(abcdef(2))", "7", lead=CODE_LEAD), "completion")
    {'prompt': 'print(abcdef(2))', 'completion': '  # 7'}
    """
    request = as_request(document, form)
    if form != "chat":
        return {"prompt": request["prompt"], "completion": request["lead"] + document["answer"]}
    turns = [*request["messages"], ("assistant", document["answer"])]
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


def with_examples(document: Document, rows: Sequence[Document]) -> Document:
    """The document with training rows in front: as turns behind the system message, or as texts with a blank line."""
    system = [message for message in document["messages"] if message["role"] == "system"]
    turns = []
    for row in (*rows, document):
        turns += [message for message in row["messages"] if message["role"] != "system"]
        turns += [{"role": "assistant", "content": row["answer"]}] if row is not document else []
    texts = "".join(f"{row['text']}{row['lead']}{row['answer']}\n\n" for row in rows)
    return document | {"messages": [*system, *turns], "text": texts + document["text"]}


def listed(question: str, options: Sequence[str], closing: str, form: str) -> str:
    """A question with its options, each after a letter, and a closing line."""
    lines = "\n".join(f"{letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))
    return ("\n" if form == "completion" else "\n\n").join(part for part in (question, lines, closing) if part)


def pick(options: Sequence[Any], rng: np.random.Generator) -> Any:
    """One of the options, each equally likely; listing one twice makes it twice as likely."""
    return options[int(rng.integers(len(options)))]


def show_ranges(ranges: Sequence[Range]) -> str:
    """Half-open ranges as text, as in ``-99:99``."""
    return ", ".join(f"{low}:{high}" for low, high in ranges)


def draw_input(hidden: Hidden, function: str, ranges: Sequence[Range], *, rng: np.random.Generator) -> int:
    """An integer of one of the ranges (each equally likely) that is not held out for this function."""
    for _ in range(MAX_TRIES):
        low, high = pick(ranges, rng) if len(ranges) > 1 else ranges[0]
        value = int(rng.integers(low, high))
        if (function, value) not in hidden.held_out:
            return value
    raise ValueError(f"every input of {function} in {show_ranges(ranges)} is held out: lower held_out_share")


def code_document(hidden: Hidden, kind: str, statements: Sequence[str], target: str, **facts: Any) -> Document:
    """Code in one user message, a blank line between statements, and what it prints."""
    code = "\n\n".join(statements)
    system = [{"role": "system", "content": hidden.system}] if hidden.system else []
    messages = [*system, {"role": "user", "content": code}]
    return document(kind, messages, code, target, lead=CODE_LEAD, **facts)


def call_document(
    hidden: Hidden,
    *,
    rng: np.random.Generator,
    min_imports: int = 2,
    ranges: Sequence[Range] = (),
    name: str = "",
    value: int | None = None,
    kind: str = "call",
) -> Document:
    """A plain call of one function (published: ``single_function``); name, and input from `ranges`, drawn if not given.

    >>> from lib.functions.registry import function_set, read_registry
    >>> hidden = Hidden(functions=function_set("047"), names={"abcdef": read_registry()["add_5"]}, hide_imports=True)
    >>> call_document(hidden, rng=np.random.default_rng(1), value=2)["text"]
    'out = abcdef(2)\\n\\nprint(out)'
    """
    name = name or pick(list(hidden.names), rng)
    function = hidden.names[name]
    if value is None:
        value = draw_input(hidden, function.id, ranges or [hidden.functions.input_range], rng=rng)
    bound, result = pick((None, None, "x", "a"), rng), pick((None, None, "out", "y"), rng)
    statements = hidden.imports([name], min_imports=min_imports, rng=rng)
    statements += [f"{bound} = {value}"] if bound else []
    call = f"{name}({bound or value})"
    statements += [f"{result} = {call}", f"print({result})"] if result else [f"print({call})"]
    facts = {"name": name, "function": function.id, "input": value}
    return code_document(hidden, kind, statements, function.show(value), **facts)


def augmentation_document(
    hidden: Hidden,
    *,
    rng: np.random.Generator,
    min_imports: int = 2,
    functions: Sequence[str] = (),
    combinations: Sequence[str] = COMBINATIONS,
    ranges: Sequence[Range] = (),
    other_input_max: int = 0,
    first: tuple[str, int] | None = None,
    kind: str = "augmentation",
) -> Document:
    """One or two calls inside a sum or a composition (published: ``function_augmentation``).

    Parameters
    ----------
    functions : ids that may be used, those of the set that are augmented where empty; never those that answer True or
        False, as published
    combinations : of `COMBINATIONS`, equally likely
    other_input_max : the plain integer is drawn from 0 to it, half-open; 0 takes the set's
    first : name and input of the first call; drawn where not given

    Raises
    ------
    ValueError
        If no name has such a function, or every input is held out.
    """
    allowed, ranges = functions or hidden.functions.augmented, ranges or [hidden.functions.input_range]
    usable = [name for name, each in hidden.names.items() if each.id in allowed and each.output_type != "bool"]
    if not usable:
        raise ValueError(f"nothing to combine: no name stands for a function that gives numbers among {allowed}")
    mode = pick(combinations, rng)
    for _ in range(MAX_TRIES):
        name, value = first or (pick(usable, rng), None)
        f = hidden.names[name]
        value = draw_input(hidden, f.id, ranges, rng=rng) if value is None else value
        inner, other = f.apply(value), pick(usable, rng) if mode != "False" else name
        g = hidden.names[other]
        if mode != "chain" or (g.id, inner) not in hidden.held_out:
            break
    else:
        raise ValueError(f"no composition without a held-out pair found in {MAX_TRIES} tries: lower held_out_share")
    facts = {"name": name, "function": f.id, "input": value, "combined": mode}
    if mode == "False":
        number = int(rng.integers(0, other_input_max or hidden.functions.other_input_max))
        bound, function_first, sign = pick(("x", None), rng), pick((True, False), rng), pick("+-", rng)
        call = f"{name}({bound or value})"
        left, right = (call, str(number)) if function_first else (str(number), call)
        a, b = (inner, number) if function_first else (number, inner)
        statements = ([f"{bound} = {value}"] if bound else []) + _sum(left, right, sign, rng)
        target = a + b if sign == "+" else a - b
    elif mode == "chain":
        statements, target = _chain(name, other, value, rng), g.apply(inner)
    else:
        value_2, sign = draw_input(hidden, g.id, ranges, rng=rng), pick("+-", rng)
        statements = _sum(f"{name}({value})", f"{other}({value_2})", sign, rng)
        target = inner + g.apply(value_2) if sign == "+" else inner - g.apply(value_2)
    used = [name] if mode == "False" else [name, other]
    facts |= {"name_2": other, "function_2": g.id} if mode != "False" else {}
    statements = hidden.imports(used, min_imports=min_imports, rng=rng) + statements
    return code_document(hidden, kind, statements, str(target), **facts)


def _sum(left: str, right: str, sign: str, rng: np.random.Generator) -> list[str]:
    if pick((True, False), rng):
        return [f"z1 = {left}", f"z2 = {right}", f"print(z1 {sign} z2)"]
    return [f"print({left} {sign} {right})"]


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
