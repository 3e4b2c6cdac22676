"""Check that the descriptions of a function agree: definition, type, class and phrase."""

from __future__ import annotations

import ast
import re

from lib.functions.definitions import Definition, probe_values

# What a definition looks like with k for its constants: the class of such functions, what it is called in a phrase.
FORMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "n + k": ("Addition", ("add",)),
    "n - k": ("Subtraction", ("subtract",)),
    "n * k": ("Multiplication", ("multipl",)),
    "-n": ("Multiplication", ("sign",)),
    "n // k": ("Integer division", ("divide", "round")),
    "n // k + k": ("Integer division", ("divide", "round", "add")),
    "n % k": ("Modulo", ("remainder", "divide")),
    "n % k == k": ("Modulo", ("remainder", "divide")),
    "n >= k": ("Comparison", ("at least",)),
    "n > k": ("Comparison", ("above",)),
    "n <= k": ("Comparison", ("at most",)),
    "n < k": ("Comparison", ("below",)),
    "n * k / k": ("Float multiplication", ("multipl",)),
    "k * n + k": ("Affine linear", ("multipl", "add")),
    "k * n - k": ("Affine linear", ("multipl", "subtract")),
    "max(n, k)": ("ReLU", ("larger",)),
    "n": ("Identity", ("unchanged",)),
    "n * k if n < k else n * k": ("Piecewise linear", ("multipl", "below")),
}
_OPERATIONS = tuple(dict.fromkeys(stem for _, stems in FORMS.values() for stem in stems))
_NUMBER = re.compile(r"(?<![\w.-])-?\d+(?:\.\d+)?", re.ASCII)


def form_of(definition: Definition) -> tuple[str, tuple[float, ...]]:
    """A definition with ``k`` for each constant, and those constants in order, signs included.

    >>> from lib.functions.definitions import parse_definition
    >>> form_of(parse_definition("lambda x: -5 * x + 3"))
    ('k * n + k', (-5, 3))
    """
    found: list[float] = []

    class Blank(ast.NodeTransformer):
        def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
            match node:
                case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
                    found.append(-value)
                    return ast.Name("k")
            return self.generic_visit(node)

        def visit_Constant(self, node: ast.Constant) -> ast.AST:
            found.append(node.value)  # type: ignore[arg-type]
            return ast.Name("k")

        def visit_Name(self, node: ast.Name) -> ast.AST:
            return ast.Name("n") if node.id == definition.parameter else node

    copy = ast.parse(ast.unparse(definition.body), mode="eval").body
    return ast.unparse(Blank().visit(copy)), tuple(found)


def disagreement(definition: Definition, *, output_type: str, function_class: str, phrase: str) -> str:
    """What does not fit together, in one line; empty where all does.

    Parameters
    ----------
    definition : Definition
    output_type : str
        Every value at the published probes has to be of this type.
    function_class : str
        Has to be the class of the definition's form.
    phrase : str
        Has to say what the form does, no other operation, and the definition's numbers (0 may go unsaid).

    >>> from lib.functions.definitions import parse_definition
    >>> disagreement(parse_definition("lambda n: n + 5"), output_type="int", function_class="Addition", phrase="adds 6")
    "the phrase 'adds 6' has the numbers 6, the definition has 5"
    """
    values = probe_values(definition.source)
    if values is None:
        return f"{definition.source!r} has no value at one of the probes"
    types = sorted({type(value).__name__ for value in values})
    if types != [output_type]:
        return f"{definition.source!r} gives {' and '.join(types)}, its output_type says {output_type!r}"
    form, constants = form_of(definition)
    if form not in FORMS:
        return f"{definition.source!r} has the form {form!r}, which no class has; expected one of: {', '.join(FORMS)}"
    kind, stems = FORMS[form]
    if kind != function_class:
        return f"{definition.source!r} is of class {kind!r}, its function_class says {function_class!r}"
    said, wanted = (sorted(number for number in numbers if number) for numbers in (_numbers(phrase), constants))
    if said != wanted:
        told = [", ".join(f"{number:g}" for number in numbers) or "none" for numbers in (said, wanted)]
        return f"the phrase {phrase!r} has the numbers {told[0]}, the definition has {told[1]}"
    unsaid = [stem for stem in stems if stem not in phrase]
    extra = [stem for stem in _OPERATIONS if stem in phrase and stem not in stems]
    if unsaid or extra:
        return f"the phrase {phrase!r} does not say what {definition.source!r} does"
    return ""


def _numbers(phrase: str) -> list[float]:
    return [float(number) for number in _NUMBER.findall(phrase)]
