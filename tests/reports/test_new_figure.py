"""A figure is three files: a notebook, a YAML file and a module. Nothing else has to know of it."""

import json
import os
import subprocess
from pathlib import Path

from pages import ROOT

FILES = Path(__file__).parents[1] / "data" / "figure"
PLACES = {
    "length_answers.ipynb": "notebooks",
    "length.yaml": "params/figures",
    "length_of_answers.py": "interventions/attention",
}


def checkout_with_the_figure(folder: Path) -> None:
    """This checkout, file by file, and the three files of the figure."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in tracked.splitlines():
        if name.startswith(("interventions/", "notebooks/", "params/", "Makefile", "pyproject", "requirements.lock")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.symlink(ROOT / name, folder / name)
    for name, place in PLACES.items():
        (folder / place / name).write_text((FILES / name).read_text(encoding="utf-8"), encoding="utf-8")


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    ready = ROOT / ".venv" / ".ready"
    given = ["make", "--no-print-directory", f"VENV={os.path.relpath(ROOT / '.venv', folder)}", "-o",
             os.path.relpath(ready, folder), "OUT=out", *arguments]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(given, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_figure_of_three_files_has_a_target_a_report_and_a_place_on_the_index(tmp_path):
    checkout_with_the_figure(tmp_path)
    assert "notebooks/length_answers.ipynb" in make(tmp_path, "--dry-run", "reports").stdout
    made = make(tmp_path, "length", "P=limit=2")
    assert made.returncode == 0, made.stderr[-2000:]
    record = json.loads((tmp_path / "out" / "length_answers.record.json").read_text())
    assert record["numbers"]["known"]["n"] == 2
    assert [claim["holds"] for claim in record["claims"]] == [True]
    assert make(tmp_path, "pages").returncode == 0
    assert "How long answers are" in (tmp_path / "out" / "index.html").read_text()
