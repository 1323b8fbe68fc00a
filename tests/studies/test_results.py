"""Tables on disk by what they depend on: found again, never half written, made once by one process."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import interventions.files as files
import interventions.studies.results as results
from interventions.environment import commit
from interventions.studies.results import ResultStore, begin_run, computed_by

KEY = {"table": "trace_study", "version": 2, "model": "abc", "item": "known-1", "window": 3,
    "kinds": ["mlp", "attention"]}


def table(value: float = 0.5) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "layer": np.arange(3, dtype=np.int16),
            "effect": np.array([value, np.nan, 0], dtype=np.float32),
            "role": pd.Categorical(["a", "b", "a"]),
            "note": ["x", None, "y"],
        }
    )


def refuse():
    raise AssertionError("computed although stored")


def test_a_stored_table_is_not_computed_again(tmp_path):
    store = ResultStore(tmp_path)
    assert store.get(KEY) is None
    first = store.get_or_compute(KEY, table)
    again = ResultStore(tmp_path).get_or_compute(KEY, refuse)
    pd.testing.assert_frame_equal(first, again)
    assert again["effect"].dtype == np.float32
    assert again["layer"].dtype == np.int16


@pytest.mark.parametrize("change", [{"window": 4}, {"item": "known-2"}, {"kinds": ["mlp"]}, {"dtype": None}])
def test_whatever_is_in_the_key_makes_another_file(tmp_path, change):
    store = ResultStore(tmp_path)
    store.get_or_compute(KEY, table)
    other = store.get_or_compute(KEY | change, lambda: table(9.0))
    assert other["effect"][0] == 9.0
    assert store.get(KEY)["effect"][0] == 0.5


def test_the_order_of_a_keys_names_does_not_matter(tmp_path):
    store = ResultStore(tmp_path)
    assert store.path(KEY) == store.path(dict(reversed(KEY.items())))


def test_a_new_version_of_a_computation_computes_its_tables_anew_and_no_others(tmp_path):
    store, other = ResultStore(tmp_path), KEY | {"table": "edit"}
    for key in (KEY, other):
        store.get_or_compute(key, table)
    raised = KEY | {"version": 3}
    assert store.get(raised) is None
    assert store.get(other) is not None
    assert store.get_or_compute(raised, lambda: table(9.0))["effect"][0] == 9.0


def test_a_table_without_a_version_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"table 'mine' has no version"):
        ResultStore(tmp_path).get({"table": "mine"})


def test_every_table_of_this_package_has_a_version_in_its_key():
    sources = "".join(path.read_text() for path in Path(results.__file__).parents[1].rglob("*.py"))
    tables = set(re.findall(r'\{\s*"table": "(\w+)", "version": \d+', sources))
    assert len(tables) == 13
    assert set(re.findall(r'\{\s*"table": "(\w+)"', sources)) - {"trace_study"} == tables - {"trace_study"}


def test_a_table_says_what_computed_it(tmp_path, monkeypatch):
    begin_run()
    store = ResultStore(tmp_path, device="cuda:0")
    monkeypatch.setattr(results, "computing", lambda device: {"commit": "old", "device": device})
    store.get_or_compute(KEY, table)
    monkeypatch.setattr(results, "computing", lambda device: {"commit": "new", "device": device})
    old = ResultStore(tmp_path, device="cpu").get_or_compute(KEY, refuse)  # which commit it was is not in the key
    assert old.attrs["computed_by"] == {"commit": "old", "device": "cuda:0"}
    for n in range(2):
        new = store.get_or_compute(KEY | {"window": 7 + n}, table)
    assert new.attrs["computed_by"] == {"commit": "new", "device": "cuda:0"}
    new_ones, old_ones = ({"commit": name, "device": "cuda:0", "tables": n} for name, n in (("new", 2), ("old", 1)))
    assert computed_by() == [new_ones, old_ones]  # each table once, however often it was read
    begin_run()
    assert computed_by() == []
    store.get(KEY)
    assert computed_by() == [old_ones]


def test_what_computes_is_told_by_versions_device_and_commit(tmp_path):
    told = ResultStore(tmp_path, device="cpu").get_or_compute(KEY, table).attrs["computed_by"]
    assert set(told) == {"versions", "device", "commit"} and told["device"] == "cpu"
    assert set(told["versions"]) == {"python", "interventions", "torch", "transformers", "nnsight", "numpy"}
    assert told["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert told["commit"] == commit()


def test_keys_without_an_exact_json_form_are_refused(tmp_path):
    store = ResultStore(tmp_path)
    with pytest.raises(ValueError, match="Out of range float"):
        store.path(KEY | {"scale": float("nan")})
    with pytest.raises(TypeError, match="not JSON serializable"):
        store.path(KEY | {"model": tmp_path})


@pytest.mark.parametrize("keep", [0, 4, 0.5, 0.9, -1])
def test_truncated_files_are_computed_again(tmp_path, keep):
    store = ResultStore(tmp_path)
    store.get_or_compute(KEY, table)
    path = store.path(KEY)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep) if isinstance(keep, float) else keep])
    assert store.get(KEY) is None
    pd.testing.assert_frame_equal(
        store.get_or_compute(KEY, table), ResultStore(tmp_path).get_or_compute(KEY, refuse)
    )


def test_a_damaged_page_or_a_foreign_table_is_not_trusted(tmp_path):
    store = ResultStore(tmp_path)
    store.get_or_compute(KEY, table)
    content = bytearray(store.path(KEY).read_bytes())
    content[40] ^= 0xFF  # inside the first column's data
    store.path(KEY).write_bytes(bytes(content))
    assert store.get(KEY) is None
    table().to_parquet(store.path(KEY))
    assert store.get(KEY) is None


def test_a_failure_stores_nothing_and_leaves_nothing(tmp_path, monkeypatch):
    store = ResultStore(tmp_path)
    with pytest.raises(AssertionError):
        store.get_or_compute(KEY, refuse)
    monkeypatch.setattr(files.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        store.get_or_compute(KEY, table)
    assert list(store.directory.iterdir()) == []


def test_old_temporary_files_are_swept_and_young_ones_left(tmp_path):
    store = ResultStore(tmp_path)
    old, young = store.directory / ".a.1.tmp", store.directory / ".b.2.tmp"
    for path in (old, young):
        path.write_bytes(b"cut short")
    os.utime(old, (time.time() - 7200,) * 2)
    ResultStore(tmp_path)
    assert not old.exists()
    assert young.exists()


SWEEP = """
import sys, time
import numpy as np, pandas as pd
from interventions.studies.results import ResultStore

store = ResultStore(sys.argv[1])
frames = []
for number in range(40):
    def compute():
        time.sleep(0.01)
        return pd.DataFrame({"number": number, "effect": np.random.default_rng(number).random(20_000)})
    frames.append(store.get_or_compute({"table": "trace_study", "version": 2, "item": number}, compute))
    print(number, flush=True)
pd.concat(frames).to_parquet(sys.argv[2])
"""


def test_a_sweep_killed_at_five_random_points_ends_in_the_same_table(tmp_path):
    def start(results_dir, out):
        command = [sys.executable, "-c", SWEEP, str(results_dir), str(tmp_path / out)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    assert start(tmp_path / "whole", "whole.parquet").wait(60) == 0
    generator = random.Random(0)
    for stop in sorted(generator.sample(range(3, 36), 5)):
        process = start(tmp_path / "killed", "killed.parquet")
        for line in process.stdout:
            if int(line) == stop:
                time.sleep(generator.uniform(0, 0.03))  # anywhere within computing or writing the next one
                break
        process.send_signal(signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
    assert not (tmp_path / "killed.parquet").exists()
    assert start(tmp_path / "killed", "killed.parquet").wait(60) == 0
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "killed.parquet"), pd.read_parquet(tmp_path / "whole.parquet")
    )


def test_a_file_that_another_run_finishes_meanwhile_is_no_error(tmp_path, monkeypatch):
    """Several notebooks start in one folder of results: what one sees there, another may just be moving away."""
    directory = ResultStore(tmp_path).directory
    (directory / ".half.tmp").write_bytes(b"half")
    seen = type(directory).glob

    def and_gone(self, pattern):
        for path in list(seen(self, pattern)):
            path.unlink()
            yield path

    monkeypatch.setattr(type(directory), "glob", and_gone)
    assert list(ResultStore(tmp_path).directory.iterdir()) == []


def test_tables_that_another_one_rests_on_are_told_whether_it_was_computed_or_read(tmp_path, monkeypatch):
    """An answer, read while a trace was computed: a run that is resumed tells the same as one that is not."""
    told = []
    for made_by in ("old", "new", "new"):
        results.begin_run()
        monkeypatch.setattr(results, "computing", lambda device, made_by=made_by: {"commit": made_by})
        store = ResultStore(tmp_path)
        if made_by == "old":
            store.get_or_compute({"table": "answers", "version": 2}, table)
            continue
        store.get_or_compute({"table": "trace_study", "version": 2},
            partial(store.get_or_compute, {"table": "answers", "version": 2}, refuse))
        told.append(results.computed_by())
    assert told[0] == told[1] and {entry["commit"]: entry["tables"] for entry in told[0]} == {"old": 1, "new": 1}
