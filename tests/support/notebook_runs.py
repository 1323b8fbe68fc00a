"""What tests of notebooks share: tiny saved models and a test bed, and running a notebook as a user does."""

import json
from dataclasses import replace
from pathlib import Path

import nbformat
import papermill
import tiny
from answering import questions, speaking

from interventions.reports.record import MIME_TYPE, read_record
from interventions.studies.conditions import Conditions, clean_prompt, corrupted_prompt
from interventions.testbed import Item, save_testbed
from interventions.tracing.causal_trace import Scoring, trace

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"
BY_HAND = {"explore", "verify"}  # notebooks that people use in JupyterLab, one question at a time
PARTS = ("known", "okvqa", "movies")


def save_models(root: Path) -> Path:
    """`model` and its text-only counterpart `text` in a directory, and `bed`, whose questions both answer right."""
    model, text = speaking(tiny.build()), speaking(tiny.build("gqa", None))
    for name, saved in (("model", model), ("text", text)):
        saved.module.save_pretrained(root / name)
        saved.processor.save_pretrained(root / name)
    items = questions(model, root / "bed", n=9, parts=PARTS)
    save_testbed([replace(item, answers=(*item.answers, said(text, item))) for item in items], root / "bed")
    return root


def said(model, item: Item) -> str:
    """What a model answers."""
    prompt = clean_prompt(model, item, Conditions())
    corrupted = corrupted_prompt(model, item, prompt, Conditions(corrupted="visual"))
    return trace(model, prompt, corrupted, positions=(0,), scoring=Scoring(max_answer_tokens=1)).answer_text


def parameters(saved: Path, out: Path, **changes) -> dict:
    paths = {"model": str(saved / "model"), "testbed": str(saved / "bed"), "results_dir": str(out)}
    return paths | {"limit": 3} | changes


def execute(notebook: str, out: Path, given: dict) -> Path:
    """Run a notebook with parameters; returns the executed one, results lie in `out`."""
    papermill.execute_notebook(NOTEBOOKS / f"{notebook}.ipynb", out / f"{notebook}.ipynb", given, progress_bar=False)
    return out / f"{notebook}.ipynb"


def outputs(path: Path) -> list:
    return [output for cell in nbformat.read(path, 4).cells for output in cell.get("outputs", [])]


def shown(path: Path, mime: str) -> list[str]:
    """All outputs of one MIME type."""
    return [output.data[mime] for output in outputs(path) if mime in output.get("data", {})]


def noise_on_stderr(path: Path) -> list[str]:
    return [output.text for output in outputs(path) if output.get("name") == "stderr"]


SHOWS = "The paper's finding holds here in"


def check(path, results, figure: str, pictures: set[str], tables: int, says: str = SHOWS, name: str = "") -> dict:
    """What every figure's notebook must do; returns its record. name: that its files begin with (the notebook's)."""
    record, name = read_record(path), name or path.stem
    [written] = results.rglob(f"{name}.record.json")
    assert record == json.loads(written.read_text())
    assert record["figure"] == figure
    assert {entry.name for entry in written.parent.glob(f"{name}_*")} == {
        f"{name}_{picture}.{end}" for picture in pictures for end in ("png", "pdf")
    }
    assert len(shown(path, "image/png")) == len(pictures)
    assert len(shown(path, "text/html")) == tables
    assert says in "".join(shown(path, "text/markdown"))
    assert noise_on_stderr(path) == []
    [line] = [output.data["text/plain"] for output in outputs(path) if MIME_TYPE in output.get("data", {})]
    assert line.startswith(f"Record of {figure}: ") and "\n" not in line
    values = [output.data["text/plain"] for output in outputs(path) if output.output_type == "execute_result"]
    assert not any(value.startswith("{") for value in values)  # such as the record, in thousands of lines
    return record
