"""The parameters of each notebook: their types, their checks, and one sentence when something is wrong.

papermill writes parameters into a notebook as plain assignments and only warns of a name it does not know. A
notebook therefore validates its own namespace first (`Fig3Parameters.from_notebook(globals())`), and checks
what only shows with the model and the test bed at hand right after loading them, before the first question.
Every failure is a `ParameterError`, which a notebook, and so papermill's terminal, shows as its one sentence.
"""

from __future__ import annotations

import ast
import difflib
import re
import typing
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from ..errors import OneSentence
from ..files import why_not_writable
from ..models.checkpoints import ALIASES, CHECKPOINTS, ModelError
from ..models.loading import load_model
from ..models.model import VisionLanguageModel
from ..remote.http import TRAFFIC
from ..testbed import TestBed, TestBedError, load_testbed
from .conditions import PROTOCOLS
from .results import TABLES, begin_run

_NOTEBOOK_NAMES = {"In", "Out"}  # IPython's own plain data
_INJECTED = "# Parameters\n"  # how the cell begins that papermill adds; it may hold float('nan')
_TYPE_NAMES = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}
_DEFAULT_RESULTS = Path("results")  # in the directory the notebook runs in


class ParameterError(OneSentence, ValueError):
    """A parameter that cannot be used; the message is one sentence that names it and the remedy."""


class NotebookParameters:
    """A dataclass of a notebook's parameters, read from its namespace and checked."""

    @classmethod
    def from_notebook(cls, namespace: dict) -> typing.Self:
        """The parameters in a notebook's `globals()`; raises `ParameterError` at the first that is wrong.

        What is imported or computed is no parameter. A run begins here, also the second one in a kernel, where the
        first has left its variables: among names that are not declared, only those that the cells of parameters assign
        are refused. A namespace without a notebook's history has parameters alone.
        """
        begin_run()
        TRAFFIC.reset()
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


@dataclass(frozen=True)
class Parameters(NotebookParameters):
    """What every notebook with a record takes; the defaults are those of its `parameters` cell."""

    model: str = "mini"
    testbed: str = "embedded"
    limit: int = 40
    seed: int = 0
    revision: str = ""
    dtype: str = ""
    device_map: str = ""
    prompt: str = ""
    remote: bool = False
    concurrency: int = 1
    protocol: str = "paper"
    results_dir: str = ""
    record_path: str = ""

    figure: typing.ClassVar[str]  # the notebook's name, which its files start with

    def check(self) -> None:
        """Checks that need neither the model nor the test bed."""
        at_least("limit", self.limit, 0, "0 means all questions")
        at_least("seed", self.seed, 0, "it starts the sampling of questions")
        one_of("protocol", self.protocol, PROTOCOLS)
        at_least("concurrency", self.concurrency, 1, "it counts the questions that wait for a server at a time")
        if self.concurrency > 1 and not self.remote:
            raise ParameterError(
                f"Parameter 'concurrency' is {self.concurrency}, but nothing runs on a server: add -p remote True, or "
                "leave it out."
            )
        self.check_paths()

    def check_paths(self) -> None:
        """Whether results and the record can be written where they are to go."""
        must_take_files("results_dir", self.results / TABLES)
        must_take_files("record_path", self.record_file.parent)
        if self.record_file.is_dir():
            raise ParameterError(
                f"Parameter 'record_path': {str(self.record_file)!r} is a folder: name a file, such as "
                f"{self.record_file / self.figure}.record.json."
            )

    def load(self) -> tuple[VisionLanguageModel, TestBed]:
        """The model and the selected questions, with the checks that need them."""
        disable_progress_bar()  # bars break papermill's log and fill the report
        testbed = named("testbed", TestBedError, load_testbed, self.testbed)
        testbed = self.select(testbed)  # cheap, so a wrong part is reported before minutes of loading weights
        model = self.load_model("model")
        self.check_model(model)
        held = f" ({model.quantization} weights)" if model.quantization else ""
        where = f"{model.device}"
        if model.server:
            print("\n".join(model.server.answers))
            where = model.server.host
        print(f"{model.name}: {model.n_layers} layers, {model.dtype}{held} on {where}")
        print(f"{testbed.name}: {len(testbed)} questions to ask", flush=True)
        return model, testbed

    def load_model(self, parameter: str, name: str = "") -> VisionLanguageModel:
        """The model that a parameter names, or the one that stands for it where it is empty.

        `dtype` and `device_map` are those of all models, `prompt` that of `model` and its text-only counterpart.
        """
        own = {"revision": self.revision or None} if parameter == "model" else {}
        if parameter in ("model", "text_model"):
            own["prompt"] = self.prompt or None
        return named(
            parameter, ModelError, load_model, name or getattr(self, parameter), remote=self.remote,
            concurrency=self.concurrency, dtype=self.dtype or None, device_map=self.device_map or None, **own,
        )

    def select(self, testbed: TestBed) -> TestBed:
        """The questions that this run asks."""
        return testbed

    def check_model(self, model: VisionLanguageModel) -> None:
        """Checks that need the loaded model."""

    @property
    def results(self) -> Path:
        """Where results go: `results_dir`, or `results/` in the directory the notebook runs in."""
        return Path(self.results_dir).expanduser() if self.results_dir else _DEFAULT_RESULTS

    @property
    def record_file(self) -> Path:
        """Where the record goes: `record_path`, or `<model>/<figure>.record.json` in `results`."""
        if self.record_path:
            return Path(self.record_path).expanduser()
        return self.results / re.sub(r"[^\w.-]+", "-", self.model).strip("-.") / f"{self.figure}.record.json"

    def picture(self, name: str) -> Path:
        """Where a picture goes: beside the record, without the ending."""
        return self.record_file.with_name(f"{self.record_file.name.removesuffix('.record.json')}_{name}")

    def as_dict(self) -> dict:
        """All of them by name, as the record keeps them."""
        return asdict(self)


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


def must_differ(parameter: str, name: str, model: str) -> None:
    """Raises ParameterError where the model that a parameter names is `model` itself, by whatever name; "" is none."""
    if name and _place(name) == _place(model):
        raise ParameterError(f"Parameter {parameter!r} is {name!r}, the model itself: name another one.")


def _place(model: str) -> Path | str:
    """The folder that a model's name stands for, or the name of one on the Hub."""
    folder = CHECKPOINTS / model if model in ALIASES else Path(model).expanduser()
    return folder.resolve() if folder.exists() else model


def by_id(testbed: TestBed, ids: list[str]) -> TestBed:
    """The items with these ids, in their order. Raises ParameterError for an id that the test bed does not have."""
    items = {item.id: item for item in testbed}
    for name in ids:
        if name not in items:
            raise ParameterError(
                f"Parameter 'items': test bed {testbed.name!r} has no item {name!r}: {closest(name, items)}"
            )
    return TestBed(testbed.name, testbed.directory, tuple(items[name] for name in ids))


def listed(text: str) -> list[str]:
    """The distinct entries of a comma-separated parameter."""
    return list(dict.fromkeys(entry.strip() for entry in text.split(",") if entry.strip()))


def shard_of(text: str) -> tuple[int, int]:
    """The parameter `shard`: "2/8" is (2, 8), the second of eight parts."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not (found and 1 <= int(found[1]) <= int(found[2])):
        raise ParameterError(f"Parameter 'shard' must be like '2/8' (the second of eight parts), not {text!r}.")
    return int(found[1]), int(found[2])


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
