"""What a notebook's parameters are checked for: their names, their types, and one sentence when one is wrong."""

from __future__ import annotations

import ast
import difflib
import typing
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

from .errors import ParameterError
from .files import why_not_writable

_NOTEBOOK_NAMES = {"In", "Out"}  # IPython's own plain data
_INJECTED = "# Parameters\n"  # how the cell begins that papermill adds; it may hold float('nan')
_TYPE_NAMES = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}


class NotebookParameters:
    """A dataclass of a notebook's parameters, read from its namespace and checked."""

    @classmethod
    def from_notebook(cls, namespace: dict) -> typing.Self:
        """The parameters in a notebook's `globals()`; raises `ParameterError` at the first that is wrong.

        What is imported or computed is no parameter. A run begins here, also the second one in a kernel, where the
        first has left its variables: among names that are not declared, only those that the cells of parameters assign
        are refused. A namespace without a notebook's history has parameters alone.
        """
        defaults = {field.name: field.default for field in fields(cls)}
        given = {
            name: value
            for name, value in namespace.items()
            if _is_plain(value) and not name.startswith("_") and name not in _NOTEBOOK_NAMES
        }
        if "In" in namespace:
            assigned = _assigned_in_parameters(namespace["In"])
            given = {name: value for name, value in given.items() if name in defaults or name in assigned}
        for name in defaults:
            if name in namespace and name not in given:
                raise ParameterError(
                    f"Parameter {name!r} is no plain value but a {type(namespace[name]).__name__}: run the cell of "
                    "parameters again."
                )
        for name in given:
            if name not in defaults:
                raise ParameterError(f"Unknown parameter {name!r}: {closest(name, defaults)}")
        types = typing.get_type_hints(cls)
        spelt = {"true": True, "false": False}  # as YAML has it; papermill's -p passes it on as text
        given |= {name: spelt[value] for name, value in given.items() if types[name] is bool and value in list(spelt)}
        for name, value in given.items():
            _check_type(name, value, types[name], defaults[name])
        parameters = cls(**given)
        parameters.check()
        return parameters

    def check(self) -> None:
        """Checks that need neither a model nor a test bed."""


def _assigned_in_parameters(cells: list[str]) -> set[str]:
    """The names that the cells of parameters assign: those right before the last one, which validates them.

    cells: what has been run in this kernel, in order.
    """
    names = set()
    for source in reversed(cells[:-1]):
        found = _literals(source)
        if found is None:
            break
        names |= found
    return names


def _literals(source: str) -> set[str] | None:
    """The names that a cell assigns; None if it does anything else than to assign plain data."""
    try:
        statements = ast.parse(source).body
        names = set()
        for statement in statements:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):  # a text by itself
                continue
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            if not source.startswith(_INJECTED):
                ast.literal_eval(statement.value)
            names |= {target.id for target in targets}
    except (SyntaxError, ValueError, TypeError, AttributeError):
        return None
    return names


def _is_plain(value) -> bool:
    """Whether papermill could have written it: a scalar, or a list or dictionary of such."""
    if isinstance(value, dict):
        return all(map(_is_plain, [*value, *value.values()]))
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def named(parameter: str, error_type: type[Exception], function, *arguments, **options):
    """Call a loader; an `error_type` becomes a ParameterError that names the parameter it is about."""
    try:
        return function(*arguments, **options)
    except error_type as error:
        raise ParameterError(f"Parameter {parameter!r}: {error}") from error


def must_take_files(parameter: str, folder: Path) -> None:
    """Raises ParameterError where the folder that a parameter names, there or not, takes no file."""
    if why := why_not_writable(folder):
        raise ParameterError(f"Parameter {parameter!r}: {why}: name a folder that can be written.")


def listed(text: str) -> list[str]:
    """The distinct entries of a comma-separated parameter."""
    return list(dict.fromkeys(entry.strip() for entry in text.split(",") if entry.strip()))


def _check_type(name: str, value, expected: type, default) -> None:
    allowed = typing.get_args(expected) or (expected,)  # several of `int | str`
    if type(value) in allowed or (
        expected is float and type(value) is int
    ):  # a bool is an int: hence `type`
        return
    if expected is str and isinstance(value, (bool, int, float)):
        remedy = f"write -r {name} {value}, which papermill passes on as text"
    elif isinstance(value, str):
        remedy = f"write for example -p {name} {default} (in YAML without quotes)"
    else:
        remedy = "give one value or leave it out"
    kind = {**_TYPE_NAMES, type(None): "nothing"}.get(type(value), f"a {type(value).__name__}")
    raise ParameterError(
        f"Parameter {name!r} must be {' or '.join(map(_TYPE_NAMES.get, allowed))}, not {value!r} ({kind}): {remedy}."
    )


def at_least(name: str, value: int, least: int, meaning: str) -> None:
    if value < least:
        raise ParameterError(f"Parameter {name!r} must be at least {least}, not {value}: {meaning}.")


def one_of(name: str, value: str, choices: Iterable[str]) -> None:
    choices = list(choices)
    if value not in choices:
        raise ParameterError(f"Parameter {name!r} cannot be {value!r}: {closest(value, choices)}")


def closest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence: what was probably meant, or what there is to choose from."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    shown = ", ".join(repr(entry) for entry in known[:20])
    return f"choose from {shown}{', …' if len(known) > 20 else ''}."
