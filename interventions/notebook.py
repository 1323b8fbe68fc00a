"""The parameters of a notebook: a pydantic model that is read from the notebook's namespace.

papermill writes parameters into a notebook as plain assignments and only warns about a name it does not know. A
notebook therefore validates its own namespace first (`Fig3Parameters.from_notebook(globals())`). Every failure is a
`ParameterError`, which a notebook, and so papermill's terminal, shows as its one sentence.
"""

from __future__ import annotations

import ast
import difflib
import typing
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .errors import ParameterError
from .files import why_not_writable

Limit = typing.Annotated[int, Field(ge=0, description="0 means all questions")]
Seed = typing.Annotated[int, Field(ge=0, description="it starts the sampling of questions")]
Positive = typing.Annotated[float, Field(gt=0)]

_NOTEBOOK_NAMES = {"In", "Out"}  # IPython's own plain data
_INJECTED = "# Parameters\n"  # how the cell begins that papermill adds; it may hold float('nan')
_TYPE_NAMES = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}
_BOUNDS = {"greater_than_equal": "at least {ge}", "greater_than": "above {gt}", "less_than": "below {lt}"}


class NotebookParameters(BaseModel):
    """The parameters of one notebook: fields with types, bounds and defaults, and further checks in `check`.

    Raises:
        ParameterError: a value that cannot be used, in one sentence.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def __init__(self, **values) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ParameterError(self._sentence(error)) from None
        self.check()

    @classmethod
    def from_notebook(cls, namespace: dict) -> typing.Self:
        """Return the parameters in a notebook's `globals()`.

        Values that are imported or computed are no parameters. In the second run of a kernel the first one has left its
        variables: of names that are not declared, only those count that the cells of parameters assign.
        """
        fields = cls.model_fields
        given = {name: value for name, value in namespace.items()
                 if _is_plain(value) and not name.startswith("_") and name not in _NOTEBOOK_NAMES}
        if "In" in namespace:
            assigned = _assigned_in_parameters(namespace["In"])
            given = {name: value for name, value in given.items() if name in fields or name in assigned}
        for name in fields:
            if name in namespace and name not in given:
                raise ParameterError(
                    f"Parameter {name!r} is no plain value but a {type(namespace[name]).__name__}: run the cell of "
                    "parameters again."
                )
        yaml = {"true": True, "false": False}  # papermill's -p passes YAML's words on as text
        for name, value in given.items():
            if name in fields and fields[name].annotation is bool and value in list(yaml):
                given[name] = yaml[value]
        return cls(**given)

    def check(self) -> None:
        """Make the checks that need several parameters, but neither a model nor a test bed."""

    def as_dict(self) -> dict:
        """Return all parameters by name, as the record keeps them."""
        return self.model_dump()

    @classmethod
    def _sentence(cls, error: ValidationError) -> str:
        """Return the sentence about the first error; a name that does not exist comes first."""
        errors = error.errors()
        first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
        name, value, kind = str(first["loc"][0]), first["input"], first["type"]
        if kind == "extra_forbidden":
            return f"Unknown parameter {name!r}: {closest(name, cls.model_fields)}"
        field = cls.model_fields[name]
        if kind == "literal_error":
            return f"Parameter {name!r} cannot be {value!r}: {closest(str(value), typing.get_args(field.annotation))}"
        if kind in _BOUNDS:
            meaning = f": {field.description}" if field.description else ""
            return f"Parameter {name!r} must be {_BOUNDS[kind].format(**first.get('ctx', {}))}, not {value}{meaning}."
        return _wrong_type(name, value, field.annotation, field.default)


def _assigned_in_parameters(cells: list[str]) -> set[str]:
    """Return the names that the cells right before the last one assign; `cells` were run in this order."""
    names = set()
    for source in reversed(cells[:-1]):
        found = _literals(source)
        if found is None:
            break
        names |= found
    return names


def _literals(source: str) -> set[str] | None:
    """Return the names that a cell assigns; None if it does anything else."""
    try:
        statements: list[typing.Any] = ast.parse(source).body
        names = set()
        for statement in statements:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):  # a text by itself
                continue
            targets: list[typing.Any] = statement.targets if isinstance(statement, ast.Assign) else [statement.target]  # pyright: ignore[reportAttributeAccessIssue]
            if not source.startswith(_INJECTED):
                ast.literal_eval(statement.value)
            names |= {target.id for target in targets}
    except (SyntaxError, ValueError, TypeError, AttributeError):
        return None
    return names


def _is_plain(value) -> bool:
    """Whether papermill could have written the value: a scalar, or a list or dictionary of scalars."""
    if isinstance(value, dict):
        return all(map(_is_plain, [*value, *value.values()]))
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def named(parameter: str, error_type: type[Exception], function, *arguments, **options):
    """Call a loader, and turn an `error_type` into a ParameterError about the parameter."""
    try:
        return function(*arguments, **options)
    except error_type as error:
        raise ParameterError(f"Parameter {parameter!r}: {error}") from error


def must_take_files(parameter: str, folder: Path) -> None:
    """Refuse a folder that takes no file, whether it exists or not."""
    if why := why_not_writable(folder):
        raise ParameterError(f"Parameter {parameter!r}: {why}: name a folder that can be written.")


def listed(text: str) -> list[str]:
    """Return the distinct entries of a comma-separated parameter."""
    return list(dict.fromkeys(entry.strip() for entry in text.split(",") if entry.strip()))


def _wrong_type(name: str, value, expected, default) -> str:
    allowed = typing.get_args(expected) or (expected,)  # several of `int | str`; the values of a Literal
    allowed = [one if isinstance(one, type) else type(one) for one in allowed]
    if str in allowed and isinstance(value, (bool, int, float)):
        remedy = f"write -r {name} {value}, which papermill passes on as text"
    elif isinstance(value, str):
        remedy = f"write for example -p {name} {default} (in YAML without quotes)"
    else:
        remedy = "give one value or leave it out"
    kind = {**_TYPE_NAMES, type(None): "nothing"}.get(type(value), f"a {type(value).__name__}")
    names = " or ".join(dict.fromkeys(map(_TYPE_NAMES.__getitem__, allowed)))
    return f"Parameter {name!r} must be {names}, not {value!r} ({kind}): {remedy}."


def at_least(name: str, value: int, least: int, meaning: str) -> None:
    if value < least:
        raise ParameterError(f"Parameter {name!r} must be at least {least}, not {value}: {meaning}.")


def one_of(name: str, value: str, choices: Iterable[str]) -> None:
    choices = list(choices)
    if value not in choices:
        raise ParameterError(f"Parameter {name!r} cannot be {value!r}: {closest(value, choices)}")


def closest(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence: the closest known name, or the names to choose from."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    shown = ", ".join(repr(entry) for entry in known[:20])
    return f"choose from {shown}{', …' if len(known) > 20 else ''}."
