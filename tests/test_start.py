"""Starting is quick: what needs no model imports neither torch nor transformers."""

import subprocess
import sys
from pathlib import Path

import pytest

import interventions
from interventions.testbed import Item, save_testbed

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "transformers", "nnsight", "matplotlib", "sklearn")
SLOW = ("numpy", "pandas", "pyarrow", "PIL", "rich", *HEAVY)  # what help needs none of
HELP = ([], ["record"], ["convert"], ["preflight"], ["pages"], ["testbed"], ["testbed", "build"],
        ["testbed", "build", "known"], ["testbed", "import-released"], ["testbed", "annotate"], ["testbed", "verify"],
        ["testbed", "corruptions"])


def loaded(code: str, *arguments, packages=HEAVY) -> tuple[str, set[str]]:
    """What a new process prints, and which of `packages` it has imported by then."""
    end = f"\nimport sys\nprint('LOADED', *[name for name in {packages!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code + end, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT, check=True
    )
    text, _, names = done.stdout.rpartition("LOADED")
    return text, set(names.split())


MAIN = """
import sys
from interventions.__main__ import main
print("ENDED", main(sys.argv[1:]))
"""


@pytest.fixture
def bed(tmp_path):
    fields = {"part": "known", "question": "The capital of this country is", "image": None,
              "visual_constraint": "this country", "answers": ("Lima",)}
    save_testbed([Item(id=name, entity=name, **fields) for name in ("Peru", "Chile")], tmp_path / "bed")
    return tmp_path / "bed"


@pytest.mark.parametrize("command", HELP, ids=" ".join)
def test_help_appears_at_once(command):
    text, slow = loaded(MAIN, *command, "--help", packages=SLOW)
    assert f"Usage: {' '.join(['interventions', *command])}" in text and "ENDED 0" in text and not slow


def test_commands_that_need_no_model_load_none(bed, tmp_path):
    (tmp_path / "images").mkdir()
    for command, code in (
        (["record", "reports/mini/fig3_trace.ipynb"], 0),
        (["record", tmp_path / "none.ipynb"], 1),
        (["testbed", "corruptions", bed], 0),
        (["testbed", "verify", bed], 1),
        (["testbed", "build", "known", tmp_path / "new", "--images", tmp_path / "images"], 1),
        (["testbed", "annotate", bed, "--model", "m", "--which", "odd"], 1),
    ):
        text, heavy = loaded(MAIN, *command)
        assert f"ENDED {code}" in text and not heavy, command


def test_the_package_gives_its_names_when_they_are_asked_for():
    text, heavy = loaded("import interventions\nprint(interventions.__version__, 'trace' in dir(interventions))")
    assert text.split() == [interventions.__version__, "True"] and not heavy
    text, heavy = loaded("from interventions import Item, TestBedError, load_testbed\nprint(len(load_testbed()) > 99)")
    assert text.split() == ["True"] and not heavy
    names = {}
    exec("from interventions import *", names)
    assert set(interventions.__all__) <= set(names) and set(interventions.__all__) <= set(dir(interventions))
    assert all(getattr(interventions, name).__name__ == name for name in interventions.__all__)
    with pytest.raises(AttributeError, match="module 'interventions' has no attribute 'nothing'"):
        _ = interventions.nothing
    with pytest.raises(ImportError, match="nothing"):
        from interventions import nothing  # noqa: F401
