"""The package travels to the server by value, however it is installed here: each way in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import asked
import numpy as np
import pytest
from server import ROOT

from interventions import trace

WAYS = ("wheel", "editable", "copied")
PACKAGE = ROOT / "interventions"
WITHOUT_CACHES = shutil.ignore_patterns("__pycache__")

# Asks one question; prints what this process and the server know of the package.
SCRIPT = """
import importlib.util
import json
from importlib import metadata

import interventions
from interventions import load_model, load_testbed, trace
from interventions.studies.conditions import Conditions, clean_prompt, corrupted_prompt
from interventions.engine.forward import in_sandbox, in_session


def look(lm, request):
    found = {name: importlib.util.find_spec(name) is not None for name in request["names"]}
    return {"found": found, "source": in_sandbox.__code__.co_filename}


def distribution():
    try:
        found = metadata.distribution("interventions")
    except metadata.PackageNotFoundError:
        return None
    return {"root": str(found.locate_file("")), "origin": json.loads(found.read_text("direct_url.json"))}


model = load_model("mini", remote=True)
[item] = load_testbed("embedded").select(["known"], constraints="single", limit=1).items
prompt = clean_prompt(model, item, Conditions())
traced = trace(model, prompt, corrupted_prompt(model, item, prompt, Conditions()), window=3)
print(json.dumps({
    "package": interventions.__file__, "distribution": distribution(), "model": model.traced.repo_id,
    "there": in_session(model.traced, look, {"names": ["interventions", "nnsight"]}, True),
    "p_clean": traced.p_clean, "restored": traced.restored.tolist(),
}))
"""


def pip(*arguments) -> None:
    """Without the network: what is built with is installed here."""
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy: setuptools leaves folders where it builds."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(PACKAGE, folder / "source" / PACKAGE.name, ignore=WITHOUT_CACHES)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    pip("wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, folder / "source")
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def dependencies(tmp_path_factory) -> Path:
    """What this environment has but the package: with -S, Python sees no other."""
    folder = tmp_path_factory.mktemp("dependencies")
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if PACKAGE.name not in entry.name:  # neither its metadata nor the finder of an editable install
            (folder / entry.name).symlink_to(entry)
    return folder


@pytest.fixture(scope="module")
def processes(server, wheel, dependencies, tmp_path_factory) -> Iterator[dict[str, Future]]:
    """way: the folder where it must find the package, and the script's process when it is done; two at a time."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"NDIF_HOST": server.host, "NDIF_API_KEY": server.keys["trusted"]}

    def run(way: str) -> tuple[Path, subprocess.CompletedProcess]:
        folder = tmp_path_factory.mktemp(way)
        target, script = folder / "target", folder / "script" / "ask.py"
        script.parent.mkdir()  # of its own: Python searches it first
        script.write_text(SCRIPT)
        if way == "wheel":
            pip("install", "--no-index", "--no-deps", "--target", target, wheel)
        elif way == "copied":
            shutil.copytree(PACKAGE, target / PACKAGE.name, ignore=WITHOUT_CACHES)
        command, variables = [sys.executable, str(script)], {}
        if way != "editable":
            command.insert(1, "-S")
            variables = {"PYTHONPATH": os.pathsep.join([str(target), str(dependencies)])}
        done = subprocess.run(
            command, env=environment | variables, cwd=folder, capture_output=True, text=True, timeout=120
        )
        return PACKAGE if way == "editable" else target / PACKAGE.name, done

    with ThreadPoolExecutor(2) as pool:
        yield {way: pool.submit(run, way) for way in WAYS}


@pytest.fixture(scope="module")
def expected(here):
    """The local trace of what the script asks."""
    return trace(here, *asked.both_prompts(here, asked.items(1)[0]), window=3)


@pytest.mark.parametrize("way", WAYS)
def test_the_package_travels(way, processes, expected):
    package, done = processes[way].result()
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])

    # What that process imported, and that it was installed in this way
    assert Path(told["package"]) == package / "__init__.py"
    assert Path(told["model"]).is_relative_to(package)
    if way == "copied":
        assert told["distribution"] is None
    else:
        assert told["distribution"]["origin"].get("dir_info", {}).get("editable", False) == (way == "editable")
        assert way == "editable" or Path(told["distribution"]["root"]) == package.parent

    # What the server ran, without having the package, and that it did so right
    assert told["there"]["found"] == {"interventions": False, "nnsight": True}
    assert str(package / "engine" / "forward.py") in told["there"]["source"]
    assert np.nanmax(np.abs(expected.effects)) > 0.2
    assert told["p_clean"] == pytest.approx(expected.p_clean, abs=1e-5)
    np.testing.assert_allclose(np.array(told["restored"], float), expected.restored, rtol=0, atol=1e-5)


def test_a_wheel_has_everything(wheel):
    """All modules, and what a remote run reads: the embedded models, here and on the server, and the test bed."""
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    there = {file.relative_to(ROOT).as_posix() for file in PACKAGE.rglob("*")
             if file.is_file() and "__pycache__" not in file.parts}
    assert packed == there
    for needed in ("mini/checkpoints/mini/model.safetensors", "mini/checkpoints/mini/config.json", "remote/http.py",
                   "testbed/embedded/items.parquet"):
        assert f"interventions/{needed}" in packed
