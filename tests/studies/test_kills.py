"""A run that is killed anywhere loses nothing: started again, it computes only what was not finished, and ends in the
same tables as one that was not killed.

Each study is killed at ten random points, within computing a table or between computing and storing it, by an exception
that nobody catches; and one is killed for real.
"""

import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import tiny
import torch
from answering import renamed, speaking

from interventions.attention.lead_time import lead_time
from interventions.attention.study import attention_study
from interventions.editing.items import references, wrong_items
from interventions.editing.study import edit_every_layer, edit_study, sequential_edits
from interventions.studies import results
from interventions.studies.conditions import Conditions
from interventions.studies.loop import RunOptions
from interventions.tracing.controls import trace_controls
from interventions.tracing.precision import precision_study
from interventions.tracing.study import trace_study
from interventions.tracing.transplant import transplant_study
from tests.studies.test_store_keys import QUICK, World, in_words, with_target

KILLS = 10


class Killed(BaseException):
    """What no `except Exception` catches, as no process survives SIGKILL."""


def traces(world: World, out: Path) -> list[pd.DataFrame]:
    study = trace_study(world.model, world.items, run=RunOptions(results_dir=out))
    return [study.sites, study.questions]


def attention(world: World, out: Path) -> list[pd.DataFrame]:
    study = attention_study(world.model, world.items, knockouts=True, run=RunOptions(results_dir=out))
    return [study.contributions, study.knockouts, study.questions]


def controls(world: World, out: Path) -> list[pd.DataFrame]:
    study = trace_study(world.model, world.items,
        run=RunOptions(results_dir=out), conditions=Conditions(corrupted="visual"))
    return [trace_controls(world.model, world.items, study, run=RunOptions(out))]


def transplants(world: World, out: Path) -> list[pd.DataFrame]:
    study = trace_study(world.model, world.items,
        run=RunOptions(results_dir=out), conditions=Conditions(corrupted="visual"))
    return [transplant_study(world.model, world.items, study, run=RunOptions(out))]


def errors(world: World, out: Path) -> list[pd.DataFrame]:
    wrong = [with_target(item) for item in world.items]
    return [pd.DataFrame([answer for _, answer in wrong_items(world.model, wrong, "correct", 0, results_dir=out)])]


def unrelated(world: World, out: Path) -> list[pd.DataFrame]:
    found = references(world.model, world.items, results_dir=out)
    return [pd.DataFrame([{"id": one.item.id, "log_p": float(one.log_p.sum())} for one in found])]


def edits(world: World, out: Path) -> list[pd.DataFrame]:
    return [edit_study(world.model, chosen(world), world.items, references(world.model, world.items, results_dir=out),
                       QUICK, run=RunOptions(results_dir=out)).results]


def edits_by_layer(world: World, out: Path) -> list[pd.DataFrame]:
    pool = references(world.model, world.items, results_dir=out)
    return [edit_every_layer(world.model, chosen(world), world.items, pool, QUICK,
        run=RunOptions(results_dir=out)).results]


def kept_edits(world: World, out: Path) -> list[pd.DataFrame]:
    pool = references(world.model, world.items, results_dir=out)
    return [sequential_edits(world.model, chosen(world, 4), world.items, pool, replace(QUICK, n_unrelated=1),
                             counts=(1, 2, 3, 4), run=RunOptions(out))]


def timed(world: World, out: Path) -> list[pd.DataFrame]:
    return [pd.DataFrame([lead_time(world.model, world.items, (1, 2), run=RunOptions(out))["time_ratio"]])]


def precisions(world: World, out: Path) -> list[pd.DataFrame]:
    half = renamed(speaking(tiny.build(dtype=torch.bfloat16)), revision="r1")
    return [precision_study(world.model, [half], world.items[:2], run=RunOptions(out)).sites()]


def chosen(world: World, n: int = 2) -> dict:
    return {"correct": [(with_target(item), "said") for item in world.items[:n]]}


STUDIES = (
    traces, attention, controls, transplants, errors, unrelated, edits, edits_by_layer, kept_edits, timed, precisions,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture
def computing(monkeypatch):
    """Counts the steps of storing tables, two a table, and dies at one of them: begun, computed."""
    class Computing:
        dies_at, steps, tables = None, 0, 0

        def step(self):
            self.steps += 1
            if self.steps == self.dies_at:
                raise Killed

        def start(self, dies_at=None):
            self.dies_at, self.steps, self.tables = dies_at, 0, 0

    counts, plain = Computing(), results.ResultStore.get_or_compute

    def counted(store, key, compute):
        def step_by_step():
            counts.step()
            table = compute()
            counts.step()
            counts.tables += 1
            return table

        return plain(store, key, step_by_step)

    monkeypatch.setattr(results.ResultStore, "get_or_compute", counted)
    return counts


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.__name__)
def test_a_kill_at_ten_random_points_loses_nothing(world, computing, tmp_path, monkeypatch, study):
    monkeypatch.setattr("interventions.attention.lead_time._seconds", lambda model, run: run() or 1.0)
    computing.start()
    whole, tables, steps = study(world, tmp_path / "whole"), computing.tables, computing.steps
    generator, done = random.Random(study.__name__), 0
    for _ in range(KILLS):
        if steps - 2 * done < 1:
            break
        computing.start(dies_at=generator.randint(1, max(1, (steps - 2 * done) // 3)))  # not too far, so that ten fit
        with pytest.raises(Killed):
            study(world, tmp_path / "killed")
        done += computing.tables
        # What was computed is there, and nothing else.
        assert len(list((tmp_path / "killed" / "questions").iterdir())) == done
    computing.start()
    resumed = study(world, tmp_path / "killed")
    assert computing.tables == tables - done
    for one, other in zip(whole, resumed, strict=True):
        pd.testing.assert_frame_equal(in_words(one), in_words(other))


RUN = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[1].split(":")
from tests.studies import test_kills
[table] = test_kills.kept_edits(test_kills.World(Path(sys.argv[2])), Path(sys.argv[3]))
table.to_parquet(sys.argv[4])
"""


def test_a_run_killed_for_real_goes_on(world, tmp_path):
    """The study in which each table needs those before it."""
    def start(name):
        places = [Path(__file__).parents[2], Path(__file__).parents[1] / "support"]
        given = [":".join(map(str, places)), tmp_path / name, tmp_path / "killed", tmp_path / "table.parquet"]
        return subprocess.Popen([sys.executable, "-c", RUN, *map(str, given)], stdout=subprocess.DEVNULL)

    [whole] = kept_edits(world, tmp_path / "whole")
    questions, process, n = tmp_path / "killed" / "questions", start("first"), 6
    while process.poll() is None and len(list(questions.glob("*.parquet"))) < n:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    stored = {path: path.stat().st_mtime_ns for path in questions.glob("*.parquet")}
    assert n <= len(stored) < len(list((tmp_path / "whole" / "questions").glob("*.parquet")))
    assert start("again").wait(120) == 0
    assert {path: path.stat().st_mtime_ns for path in stored} == stored  # none was computed again
    pd.testing.assert_frame_equal(whole, pd.read_parquet(tmp_path / "table.parquet"))
