"""Whether an executed notebook is what its notebook would make now."""

import json
from pathlib import Path

import nbformat

from interventions.errors import RecordError
from interventions.reports.record import read_record

INJECTED = "injected-parameters"  # papermill's tag of the cell that sets the parameters


def outdated(executed: str | Path, notebook: str | Path) -> str:
    """Return why an executed notebook is not what the notebook would make; "" if it is.

    The cells are compared, except the one that papermill inserts, and the record beside the notebook.
    """
    executed, notebook = Path(executed), Path(notebook)
    cells = [cell for cell in _cells(executed) if INJECTED not in cell.metadata.get("tags", ())]
    if [(cell.cell_type, cell.source) for cell in cells] != [(c.cell_type, c.source) for c in _cells(notebook)]:
        return f"{executed.name} was made by another version of {notebook.name}: run it again."
    beside = executed.with_suffix(".record.json")
    try:
        record = read_record(executed)
    except RecordError as error:
        return str(error)
    if not beside.exists() or json.loads(beside.read_text(encoding="utf-8")) != record:
        return f"{beside.name} is not the record in {executed.name}: run it again."
    return ""


def _cells(path: Path) -> list:
    return nbformat.read(path, as_version=4).cells
