"""What make would run, without running it: the targets that the pages name, and what is left out where."""

import os
import re
import subprocess

import pytest
from pages import README, ROOT

NAMED = re.findall(r"(?:^    |`)make ([\w-]+)((?:`, `\w+)*)", README, re.MULTILINE)  # `make fig8`, `fig9`
TARGETS = {name for first, more in NAMED for name in (first, *re.findall(r"\w+", more))}


def make(*arguments: str) -> subprocess.CompletedProcess:
    command = ["make", "--no-print-directory", "--dry-run", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture
def venv(tmp_path):
    """An argument of make: an environment that is ready, with a papermill that cannot make Figure 5, and a python that
    tells what it is asked for. `log` beside it has the notebooks that were run."""
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    scripts = {"papermill": 'case "$1" in *fig5*) exit 1;; esac; echo "$1" >> log', "python": 'echo "$@"'}
    for name, script in scripts.items():
        command = tmp_path / "venv" / "bin" / name
        command.write_text(f"#!/bin/sh\ncd {tmp_path}\n{script}\n")
        command.chmod(0o755)
    (tmp_path / "venv" / ".ready").touch()
    return f"VENV={os.path.relpath(tmp_path / 'venv', ROOT)}"


def test_make_fig3_runs_the_papermill_command(venv):
    command = "papermill notebooks/fig3_trace.ipynb reports/mini/fig3_trace.ipynb -p window 3"
    run, record, _ = (line.strip() for line in make("fig3", venv).stdout.splitlines()[-3:])
    assert run == command
    assert record.startswith("python -m interventions record reports/mini/fig3_trace.ipynb > ")
    run = make("fig3", venv, "P=limit=5 remote=True results_dir=/tmp/a=b").stdout.splitlines()[-3].strip()
    assert run == f"{command} -p limit '5' -p remote 'True' -p results_dir '/tmp/a=b'"
    assert command.replace("reports/mini/fig3_trace.ipynb", "out.ipynb") in README


@pytest.mark.parametrize("fails", [False, True])
def test_a_record_that_cannot_be_read_leaves_the_one_that_is_there(venv, tmp_path, fails):
    (tmp_path / "out").mkdir()
    kept = tmp_path / "out" / "fig3_trace.record.json"
    kept.write_text("good")
    if fails:
        (tmp_path / "venv" / "bin" / "python").write_text("#!/bin/sh\necho half\nexit 1\n")
    done = subprocess.run(["make", "fig3", venv, f"OUT={tmp_path / 'out'}"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode != 0) == fails, done.stderr
    assert (kept.read_text() == "good") == fails
    assert [path.name for path in (tmp_path / "out").iterdir()] == [kept.name]


def test_a_profile_may_have_parameters_of_a_figure(venv):
    [run] = [line for line in make("fig6", venv, "PROFILE=smol").stdout.splitlines() if "papermill" in line]
    assert "-f params/figures/fig6.yaml -f params/models/smol.yaml -f params/smol/fig6.yaml" in run
    [run] = [line for line in make("fig6", venv).stdout.splitlines() if "papermill" in line]
    assert "params/smol" not in run


def test_make_refuses_a_parameter_without_a_value():
    refused = make("fig3", "P=limit")
    assert refused.returncode != 0
    assert "write every parameter as name=value" in refused.stderr


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_make_targets_of_the_pages_exist(venv, target):
    assert make(target, venv).returncode == 0


def test_many_targets_are_named():
    assert {"fig3", "fig9", "fig13", "precision", "reports", "explore", "bench-others", "ndif", "docs"} <= TARGETS


# All reports


def notebooks_of(*arguments: str) -> set[str]:
    """The notebooks that `make reports` would run, by name of the executed ones."""
    return set(re.findall(r"^papermill \S+ \S+/(\w+)\.ipynb", make("reports", *arguments).stdout, re.MULTILINE))


def test_reports_of_another_model_leave_out_what_needs_a_second_one(venv, tmp_path):
    every, of_embedded, of_other = (
        notebooks_of(venv, f"OUT={tmp_path}", f"PROFILE={name}") for name in ("mini", "mini-free", "llava-1.5-7b")
    )
    assert notebooks_of(venv, f"OUT={tmp_path}", "PROFILE=smol") == of_embedded  # its language model is known
    assert len(every) == 20
    assert every - of_embedded == {"fig10_questions", "fig11_questions"}
    assert every - of_other == {"fig1_windows", "fig10_questions", "fig11_questions"}


def test_a_report_that_cannot_be_made_does_not_keep_the_others_from_it(venv, tmp_path):
    given = [venv, "PROFILE=vicuna-7b", f"OUT={tmp_path / 'out'}"]
    done = subprocess.run(["make", "reports", *given], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "fig5] Error 1" in done.stderr
    assert len((tmp_path / "log").read_text().splitlines()) == 16  # of 17
    assert f"-m interventions pages {tmp_path / 'out'}" in done.stdout.splitlines()


def test_a_report_depends_on_no_notebook_that_is_used_by_hand(tmp_path):
    for name in ("fig3_trace", "explore", "verify", ".ipynb_checkpoints/fig3_trace-checkpoint"):
        path = tmp_path / "notebooks" / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for folder in ("interventions", "params"):
        (tmp_path / folder).mkdir()
    told = make("--print-data-base", "-C", str(tmp_path), "-f", str(ROOT / "Makefile"), "help").stdout
    [sources] = re.findall(r"^SOURCES := (.*)$", told, re.MULTILINE)
    assert sources.split() == ["notebooks/fig3_trace.ipynb"]


def test_the_explorer_is_opened_as_a_copy_with_the_parameters(venv):
    prepare, opened = make("explore", venv, "P=model=mini-free").stdout.splitlines()[-2:]
    kept, _, made = prepare.partition(" || ")
    assert kept == "[[ -e explore.ipynb && -z 'model=mini-free' ]]"  # what somebody added to it, unless told otherwise
    assert made == "papermill --prepare-only notebooks/explore.ipynb explore.ipynb -p model 'mini-free'"
    assert opened == "jupyter lab explore.ipynb"
    assert "/explore.ipynb" in (ROOT / ".gitignore").read_text().splitlines()
