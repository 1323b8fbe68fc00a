"""Record a notebook's numbers as JSON, in an output of the executed notebook and in a file.

`python -m interventions record out.ipynb` prints the record of an executed notebook.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..environment import commit, device_of, versions
from ..errors import RecordError
from ..extras import extra
from ..files import write_atomically
from ..progress import TRAFFIC
from ..statistics import Number
from ..studies.results import computed_by

with extra("notebooks"):
    import nbformat
    from IPython.display import display

MIME_TYPE = "application/vnd.interventions.record+json"
_VERSIONS = ("interventions", "torch", "transformers", "nnsight", "numpy", "pandas", "papermill")


@dataclass(frozen=True)
class Claim:
    """A finding of the paper, and what these numbers say about it."""

    claim: str
    paper: str
    here: str
    holds: bool | None  # None: these questions do not decide it


def record(
    figure: str, *, parameters: Mapping, model, numbers: Mapping[str, Number], table: pd.DataFrame,
    claims: Iterable[Claim], path: str | Path,
) -> dict:
    """Display the record in the notebook, write it to `path` and return it.

    Its fields are `figure`, `parameters`, `environment` (of this run), `computed_by` (environments of the stored
    tables, and their number `tables`), `numbers` (name -> value, low, high, n), `table` (tidy rows) and `claims`. NaN
    becomes null. A sentence is displayed if another commit computed some tables.
    """
    content = _plain({
        "figure": figure, "parameters": dict(parameters), "environment": environment(model),
        "computed_by": computed_by(), "numbers": {name: asdict(number) for name, number in numbers.items()},
        "table": table.to_dict("records"), "claims": [asdict(claim) for claim in claims],
    })
    write_record(content, path := Path(path))
    text = f"Record of {figure}: {len(numbers)} numbers, {len(content['table'])} rows, also in {path}"
    display({MIME_TYPE: content, "text/plain": text}, raw=True)
    show_text(other_commits(content))
    return content


def other_commits(content: Mapping) -> str:
    """Return a sentence about stored tables that another commit computed, "" if there are none."""
    own, tables = content["environment"]["commit"], Counter()
    for entry in content["computed_by"]:
        tables[entry["commit"]] += entry["tables"]
    others = [f"{n} by {_named(name)}" for name, n in tables.items() if name != own]
    if not others:
        return ""
    return (
        f"This run ({_named(own)}) reads {tables.total()} stored tables, some of which were computed earlier: "
        f"{' and '.join(others)}."
    )


def _named(commit: str | None) -> str:
    if commit is None:
        return "an installed package"
    name, _, changes = commit.partition("+")
    return f"commit {name[:12]}" + (" with changes" if changes else "")


def write_record(content: Mapping, path: Path) -> None:
    """Write a record to a file, atomically."""
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_record(notebook: str | Path) -> dict:
    """Return the last record in an executed notebook. Raises RecordError."""
    try:
        cells = nbformat.read(notebook, as_version=4).cells
    except (OSError, ValueError, nbformat.ValidationError) as error:
        raise RecordError(f"{str(notebook)!r} is not a readable notebook.") from error
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    records = [output.data[MIME_TYPE] for output in outputs if MIME_TYPE in output.get("data", {})]
    if not records:
        raise RecordError(f"{str(notebook)!r} holds no record: it has not been run, or stopped at an error.")
    return records[-1]


def paper_versus_here(claims: Iterable[Claim]) -> None:
    """Display the claims as a table."""
    verdicts = {True: "yes", False: "no", None: "cannot say"}
    rows = [(c.claim, c.paper, c.here, verdicts[c.holds]) for c in claims]
    show_table(pd.DataFrame(rows, columns=["claim", "paper", "here", "holds here"]))


def show_text(*paragraphs: str) -> None:
    """Display the nonempty paragraphs as Markdown."""
    text = "\n\n".join(filter(None, paragraphs))
    if text:
        display({"text/markdown": text, "text/plain": text}, raw=True)


def show_table(frame: pd.DataFrame) -> None:
    """Display a table in full width, without row numbers, "-" for missing values; a sentence if it is empty."""
    if frame.empty:
        show_text("These questions give no row for this table.")
        return
    frame = frame.astype(object).where(frame.notna(), "-")
    with pd.option_context("display.max_colwidth", None):
        html = frame.to_html(index=False, border=0, justify="left", float_format="{:.3f}".format)
        text = frame.to_string(index=False, float_format="{:.3f}".format)
    display({"text/html": html, "text/plain": text}, raw=True)


def environment(model) -> dict:
    """Return what the numbers depend on besides the parameters: versions, model, device, commit, server."""
    return {
        "versions": versions(_VERSIONS), "model": model.name, "revision": model.revision, "device": device_of(model),
        "dtype": str(model.dtype).removeprefix("torch."), "quantization": model.quantization, "prompt": model.prompt,
        "commit": commit(),
        "server": model.server.as_dict() | {"traffic": dict(vars(TRAFFIC))} if model.server else None,
    }


def _plain(value) -> Any:
    """Return `value` for JSON: numpy scalars unpacked, NaN and missing values as None, other objects as text."""
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value if isinstance(value, (bool, int, float, str)) else str(value)
