"""Write executed notebooks as HTML pages with folded code, and an `index.html` from their pictures and records."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import jinja2

from ..errors import RecordError
from ..extras import extra
from ..files import natural_order, why_not_writable
from .record import read_record, write_record

with extra("notebooks"):
    import nbformat
    from nbconvert.exporters import HTMLExporter
    from nbconvert.filters import markdown2html
    from nbconvert.preprocessors import ExtractOutputPreprocessor

_TEMPLATES = Path(__file__).parent / "templates"
_PLACES = ("record_path", "results_dir")  # paths of files, which the index leaves out


@dataclass(frozen=True)
class ReportPage:
    """One executed notebook, as the index shows it. Paths are relative to the index."""

    name: str  # fig3_trace
    title: str
    about: str  # HTML: what the paper says, from the notebook's first cell
    pictures: tuple[str, ...]
    record: dict
    given: dict  # the parameters that were set for this run, by name
    seconds: float


def build_pages(directory: str | Path) -> Path:
    """Write a page for each executed notebook of a folder, and `index.html`; return the path of the index.

    The index names notebooks without a record as unfinished. Raises RecordError if none is finished.
    """
    directory = Path(directory)
    reports, unfinished = [], []
    for path in sorted(directory.glob("*.ipynb"), key=lambda path: _order(path.stem)):
        try:
            record = read_record(path)
        except RecordError:
            unfinished.append(path.stem)
            continue
        reports.append(_page(path, record))
    if not reports:
        raise RecordError(f"{str(directory)!r} holds no finished report: run make reports first.")
    if why := why_not_writable(directory):
        raise RecordError(f"{why}: copy the notebooks to a folder that can be written.")
    models = Counter(report.record["environment"]["model"] for report in reports)
    templates = jinja2.Environment(loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True)
    text = templates.get_template("reports.html.j2").render(
        model=models.most_common(1)[0][0], reports=reports, unfinished=unfinished,
        minutes=sum(report.seconds for report in reports) / 60, environments=_environments(reports),
    )
    shutil.copyfile(_TEMPLATES / "style.css", directory / "style.css")
    index = directory / "index.html"
    index.write_text(text, encoding="utf-8")
    return index


def _page(path: Path, record: dict) -> ReportPage:
    """Write a notebook's page and pictures, and return its entry for the index."""
    notebook = nbformat.read(path, as_version=4)
    exporter = HTMLExporter(template_name="folded", extra_template_basedirs=[str(_TEMPLATES)])
    exporter.register_preprocessor(ExtractOutputPreprocessor(), enabled=True)
    folder = f"{path.stem}_files"
    shutil.rmtree(path.parent / folder, ignore_errors=True)  # pictures of an earlier version
    resources = {"output_files_dir": folder, "unique_key": path.stem, "metadata": {"name": path.stem}}
    body, resources = exporter.from_notebook_node(notebook, resources)
    pictures = []
    for name, content in sorted(resources.get("outputs", {}).items(), key=lambda entry: _order(entry[0])):
        (path.parent / folder).mkdir(exist_ok=True)
        (path.parent / name).write_bytes(content)
        pictures.append(name)
    path.with_suffix(".html").write_text(body, encoding="utf-8")
    beside = path.with_suffix(".record.json")
    if not beside.exists():  # papermill by hand puts it elsewhere
        write_record(record, beside)
    heading, _, about = notebook.cells[0].source.partition("\n")
    number = re.match(r"fig(\d+)_", path.stem)
    if number:  # figures that share a notebook share its heading, too
        heading = re.sub(r"Figures? [^:]+:", f"Figure {number[1]}:", heading)
    made = notebook.metadata.get("papermill", {})
    given = {name: value for name, value in made.get("parameters", {}).items() if name not in _PLACES}
    return ReportPage(
        path.stem, heading.lstrip("# "), markdown2html(about.strip()), tuple(pictures), record, given,
        float(made.get("duration") or 0),
    )


def _environments(reports: list[ReportPage]) -> list[tuple[str, list[str]]]:
    """Return each distinct environment as a sentence, with the names of its reports."""
    found: dict[str, list[str]] = {}
    for report in reports:
        e = report.record["environment"]
        versions = ", ".join(f"{name} {version}" for name, version in e["versions"].items() if version)
        model = f"{e['model']} ({e['revision'][:12]}), {e['dtype']} on {e['device']}"
        # The commits of the stored tables; without any, the commit of the run.
        computed = [entry["commit"] for entry in report.record.get("computed_by", ())] or [e["commit"]]
        commits = " and ".join(dict.fromkeys(commit or "unknown" for commit in computed))
        found.setdefault(f"{model}; computed by commit {commits}; {versions}", []).append(report.name)
    return list(found.items())


def _order(name: str) -> list:
    """table1 first, then the figures by number, then the rest."""
    kind = 0 if name.startswith("table") else 1 if name.startswith("fig") else 2
    return [kind, *natural_order(name)]
