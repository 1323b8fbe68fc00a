"""The parameters that notebooks share: model, test bed, sample of questions, windows.

What needs the model and the test bed is checked right after they are loaded, before the first question.
"""

from __future__ import annotations

import re
import typing
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from transformers.utils.logging import disable_progress_bar

from ..errors import ModelError, ParameterError
from ..layers import in_layers, spanned
from ..models.checkpoints import ALIASES, CHECKPOINTS
from ..models.loading import load_model
from ..models.model import VisionLanguageModel
from ..notebook import Limit, NotebookParameters, Seed, at_least, closest, listed, must_take_files, named, one_of
from ..progress import TRAFFIC
from ..testbed import TestBed, TestBedError, load_testbed
from .loop import RunOptions, shard_of
from .results import TABLES, begin_run


def resolve_window(name: str, value: int | str, n_layers: int) -> int:
    """Return the number of layers of a window that is given in layers (3) or as a share of the depth ("10/32").

    A share is rounded to whole layers, halves up, and is at least one layer. `name` is the parameter.
    """
    share = parse_window(name, value)
    if isinstance(share, Fraction):
        return in_layers(share, n_layers)
    if share > n_layers:
        raise ParameterError(
            f"Parameter {name!r} is {value}, but the model has {n_layers} layers: choose 1 to {n_layers}, or a share "
            "of the depth such as 10/32."
        )
    return share


def window_list(name: str, value: int | str) -> list[int | str]:
    """Return the windows of a parameter as they are written: one, or several separated by commas."""
    windows: list[int | str] = [value] if isinstance(value, int) else [*listed(value)] or [""]
    for window in windows:
        parse_window(name, window)
    return windows


def window_sentence(name: str, value: int | str, n_layers: int, rule: str = "centered") -> str:
    """Return what a window means in a model of `n_layers`: "Window: 10/32 of the depth, 3 of 8 layers."."""
    windows = []
    for written in window_list(name, value):
        layers = resolve_window(name, written, n_layers)
        share = f"{written} of the depth, " if "/" in str(written) else ""
        if rule == "radius":
            together = min(n_layers, spanned(layers, rule))
            windows.append(f"{share}a radius of {layers}, which restores {together} of {n_layers} layers together")
        else:
            windows.append(f"{share}{layers} of {n_layers} layers")
    return f"{name.replace('_', ' ').capitalize()}: {'; '.join(windows)}."


def parse_window(name: str, value: int | str) -> int | Fraction:
    """Parse a window: a number of layers, or a share of the depth."""
    if isinstance(value, int):
        at_least(name, value, 1, "it counts layers")
        return value
    found = re.fullmatch(r"([0-9]+)(?:/([0-9]+))?", value.strip())
    if found and found[2] is None and int(found[1]) >= 1:
        return int(found[1])
    if found and found[2] is not None and 1 <= int(found[1]) <= int(found[2]):
        return Fraction(int(found[1]), int(found[2]))
    raise ParameterError(
        f"Parameter {name!r} must name windows as numbers of layers, at least 1, or as shares of the depth, not "
        f"{value!r}: write for example 3, or 10/32 for ten of the 32 layers of the paper's models."
    )


_DEFAULT_RESULTS = Path("results")  # in the directory the notebook runs in


class Parameters(NotebookParameters):
    """The parameters of every notebook with a record; the defaults are those of its `parameters` cell."""

    model: str = "mini"
    testbed: str = "embedded"
    limit: Limit = 40
    seed: Seed = 0
    revision: str = ""
    dtype: str = ""
    device_map: str = ""
    prompt: str = ""
    family: Literal["", "auto"] = ""
    image_side: Annotated[int, Field(ge=0, description="it is a side in pixels")] = 0
    remote: bool = False
    protocol: Literal["paper", "authors"] = "paper"
    results_dir: str = ""
    record_path: str = ""

    figure: typing.ClassVar[str]  # the notebook's name, which its files start with

    @classmethod
    def from_notebook(cls, namespace: dict) -> typing.Self:
        """Return the parameters in a notebook's `globals()`. A run begins here."""
        begin_run()
        TRAFFIC.reset()
        return super().from_notebook(namespace)

    def check(self) -> None:
        """Check that results and the record can be written where they are to go."""
        must_take_files("results_dir", self.results / TABLES)
        must_take_files("record_path", self.record_file.parent)
        if self.record_file.is_dir():
            raise ParameterError(
                f"Parameter 'record_path': {str(self.record_file)!r} is a folder: name a file, such as "
                f"{self.record_file / self.figure}.record.json."
            )

    def load(self) -> tuple[VisionLanguageModel, TestBed]:
        """Load the model and the selected questions, and make the checks that need them."""
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

    def load_model(self, parameter: str, name: str = "", dtype: str = "") -> VisionLanguageModel:
        """Load the model that a parameter names.

        `prompt` is of `model` and its text-only counterpart, `revision` of `model`; the others hold for all models.

        Args:
            parameter: the parameter.
            name: the model to load in its place.
            dtype: a precision in place of that of the parameters.
        """
        own = {"revision": self.revision or None} if parameter == "model" else {}
        if parameter in ("model", "text_model"):
            own["prompt"] = self.prompt or None
        return named(
            parameter, ModelError, load_model, name or getattr(self, parameter), remote=self.remote,
            dtype=dtype or self.dtype or None, device_map=self.device_map or None, family=self.family,
            image_side=self.image_side, **own,
        )

    def select(self, testbed: TestBed) -> TestBed:
        """Return the questions that this run asks."""
        return testbed

    def check_model(self, model: VisionLanguageModel) -> None:
        """Make the checks that need the loaded model."""

    @property
    def results(self) -> Path:
        """The folder of results: `results_dir`, or `results/` in the working directory."""
        return Path(self.results_dir).expanduser() if self.results_dir else _DEFAULT_RESULTS

    @property
    def record_file(self) -> Path:
        """The file of the record: `record_path`, or `<model>/<figure>.record.json` in `results`."""
        if self.record_path:
            return Path(self.record_path).expanduser()
        return self.results / re.sub(r"[^\w.-]+", "-", self.model).strip("-.") / f"{self.figure}.record.json"

    def picture(self, name: str) -> Path:
        """Return the path of a picture, beside the record and without the ending."""
        return self.record_file.with_name(f"{self.record_file.name.removesuffix('.record.json')}_{name}")


def must_differ(parameter: str, name: str, model: str) -> None:
    """Refuse a parameter that names `model` itself, by whatever name."""
    if name and _place(name) == _place(model):
        raise ParameterError(f"Parameter {parameter!r} is {name!r}, the model itself: name another one.")


def _place(model: str) -> Path | str:
    """Return the folder that a model's name stands for, or its name on the Hub."""
    folder = CHECKPOINTS / model if model in ALIASES else Path(model).expanduser()
    return folder.resolve() if folder.exists() else model


def by_id(testbed: TestBed, ids: list[str]) -> TestBed:
    """Return the items with these ids, in their order."""
    items = {item.id: item for item in testbed}
    for name in ids:
        if name not in items:
            raise ParameterError(
                f"Parameter 'items': test bed {testbed.name!r} has no item {name!r}: {closest(name, items)}"
            )
    return TestBed(testbed.name, testbed.directory, tuple(items[name] for name in ids))


class Table1Parameters(Parameters):
    """notebooks/table1_testbed.ipynb"""

    limit: Limit = 0
    parts: str = ""
    examples: Annotated[int, Field(ge=1, description="it counts the questions shown of each part")] = 3

    figure: typing.ClassVar[str] = "table1_testbed"

    def select(self, testbed: TestBed) -> TestBed:
        for part in listed(self.parts):
            one_of("parts", part, testbed.parts)
        return testbed.select(listed(self.parts) or None)


class SampleParameters(Parameters):
    """The parameters of a sample: parts of the test bed, kind of question, ids, and the shard of this machine."""

    constraints: Literal["single", "multi"] = "single"
    parts: str = "known,okvqa,movies"
    items: str = ""
    shard: str = ""

    def check(self) -> None:
        super().check()
        if self.shard:
            shard_of(self.shard)

    def select(self, testbed: TestBed, limit: int | None = None) -> TestBed:
        """Return the questions to ask, at most `limit` of each part (None: the parameter's; 0: all)."""
        if self.items:
            return by_id(testbed, listed(self.items))
        parts = listed(self.parts) or list(testbed.parts)
        for part in parts:
            if part not in testbed.parts:
                raise ParameterError(
                    f"Parameter 'parts': test bed {testbed.name!r} has no part {part!r}: "
                    f"{closest(part, testbed.parts)}"
                )
        selected = testbed.select(parts, constraints=self.constraints, limit=self.limit if limit is None else limit,
                                  seed=self.seed)
        for part in parts:
            if part not in selected.parts:
                raise ParameterError(
                    f"Parameter 'parts': part {part!r} of test bed {testbed.name!r} has no question with "
                    f"{self.constraints} constraints: leave that part out."
                )
        return selected

    @property
    def run(self) -> RunOptions:
        """How the notebook's studies run."""
        return RunOptions(self.results, self.shard, required=bool(self.items), remote=self.remote)
