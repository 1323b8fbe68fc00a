"""Benchmarks against other tools: outputs come before times, and what is kept is what was measured.

pyvene and TransformerLens are not in this environment; `make bench-others` compares their outputs.
"""

import dataclasses
import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import tiny

from benchmarks import compare, measure, others, probes, scaling
from benchmarks.compare import Asked, Disagreement
from benchmarks.subjects import Subject, mini_questions, shaped
from benchmarks.ways import WAYS, Way
from interventions.prompts.corruption import corrupt
from interventions.prompts.prompt import build_prompt
from interventions.tracing.causal_trace import KINDS

LOCAL = [name for name, way in WAYS.items() if way.package in (None, "nnsight")]


@pytest.fixture(scope="module")
def asked():
    model = tiny.build()
    prompt = build_prompt(model, "The capital of this country is", tiny.picture(), visual_constraint="this country")
    subject = Subject("tiny", model, prompt, corrupt(model, prompt, visual_replacement="Sri Lanka"))
    return Asked(subject, subject.positions)


@pytest.fixture(scope="module")
def traced(asked):
    return asked.trace()


@pytest.mark.parametrize("name", LOCAL)
def test_every_way_agrees_with_the_trace(asked, name, tmp_path):
    found = compare.compare([asked], WAYS[name], tmp_path, repeats=2, timed_sites=12)
    assert found["max_abs_diff"]["value"] < 1e-5
    assert found["ratio"]["n"] == 2
    assert min(found[key]["value"] for key in ("ratio", "ms_per_site", "ours_ms_per_site", "bytes", "rows")) > 0
    assert found["sites"]["value"] == asked.n_sites == len(asked.positions) * 5 * 2


def test_several_questions_are_asked_of_one_model(asked, tmp_path):
    found = compare.compare([asked, dataclasses.replace(asked, kinds=("mlp",))], WAYS["hooks"], tmp_path, 1, 4)
    assert found["max_abs_diff"]["value"] < 1e-5
    assert found["sites"]["value"] == asked.n_sites * 0.75


def way_that_finds(values) -> Way:
    """Returns the next of the values for every batch, in all its rows."""
    values = iter(values)

    def restore(batch):
        return [next(values)] * len(batch[1])

    return Way(lambda loaded, task: restore, lambda directory: None, batched=False)


def test_a_way_that_disagrees_gets_no_time_and_nothing_is_saved(asked, monkeypatch):
    saved = []
    monkeypatch.setattr(measure, "save", lambda *arguments, **more: saved.append(arguments))
    monkeypatch.setattr(others, "load_subject", lambda name: asked.subject)
    monkeypatch.setitem(others.WAYS, "fake", way_that_finds(itertools.repeat(0.5)))
    with pytest.raises(Disagreement, match=r"tiny: P_restored differs by .* at some site"):
        others.one("tiny", "fake", repeats=1)
    assert not saved


def test_outputs_of_every_repeat_are_compared(asked, traced, tmp_path):
    _, (position,), *span = next(asked.batches(traced, 1))
    best = traced.restored[:, asked.positions.index(position), asked.spans.index(tuple(span))].max()
    right = [best] * 3  # two to see what rows cost, one that is compared before anything is timed
    with pytest.raises(Disagreement):
        compare.compare([asked], way_that_finds([*right, float("nan")]), tmp_path, repeats=1, timed_sites=1)


def test_agreement_where_nothing_changes_says_nothing(asked, traced):
    same = dataclasses.replace(traced, restored=np.full_like(traced.restored, traced.p_corrupted))
    batch = next(asked.batches(same, 2))
    with pytest.raises(Disagreement, match="the largest effect compared is"):
        asked.check(same, {batch: [traced.p_corrupted] * 2})


def test_batches_begin_with_the_largest_effect(asked, traced):
    batches = list(itertools.islice(asked.batches(traced, 3), 20))
    kind, positions, *span = batches[0]
    cell = KINDS.index(kind), asked.positions.index(positions[0]), asked.spans.index(tuple(span))
    assert abs(traced.effects[cell]) == np.abs(traced.effects).max()
    assert all(len(set(positions)) == 3 and set(positions) <= set(asked.positions) for _, positions, *_ in batches)
    assert len({tuple(batch[2:]) for batch in batches}) > 1


@pytest.mark.parametrize(("seconds", "batched", "all_rows"), [
    (lambda rows: 1.0, True, True),  # a forward costs the same whatever is in it
    (lambda rows: rows**2, True, False),
    (lambda rows: 1.0, False, False),
])
def test_as_many_rows_as_make_a_site_cheapest(asked, traced, monkeypatch, seconds, batched, all_rows):
    monkeypatch.setattr(compare, "timed", lambda restore, batch: (seconds(len(batch[1])), None))
    rows = compare.cheapest_rows(asked, traced, None, batched)
    assert rows == (len(asked.positions) if all_rows else 1)


def test_what_a_tool_refuses_is_kept_in_its_words(monkeypatch):
    def works(subject, directory):
        """Something."""

    def fails(subject, directory):
        """Something else."""
        raise KeyError("no such module\nand more")

    monkeypatch.setitem(probes.PROBES, "fake", (works, fails))
    found = probes.refusals("fake", None, None)
    assert (found["works"]["value"], found["works"]["error"]) == (0.0, "")
    assert (found["fails"]["value"], found["fails"]["what"]) == (1.0, "Something else.")
    assert found["fails"]["error"].startswith("KeyError: 'no such module")
    assert probes.refusals("hooks", None, None) == {}


# Jobs and what is saved


@pytest.fixture
def ran(monkeypatch):
    """Commands of the processes that were started; a job "bad" fails."""
    commands = []

    def run(command, env):
        assert env["HF_HUB_OFFLINE"] == "1"
        commands.append(command[2:])
        return SimpleNamespace(returncode=int("bad" in command))

    monkeypatch.setattr(measure, "commit", lambda: "abc")
    monkeypatch.setattr(measure, "subprocess", SimpleNamespace(run=run))
    return commands


def test_a_run_goes_on_where_it_was(ran, monkeypatch):
    here = {"commit": "abc", "machine": measure.machine()}
    kept = {"there": here, "of an older commit": here | {"commit": "ab"}, "of another machine": here | {"machine": {}}}
    monkeypatch.setattr(measure, "load", lambda: kept)
    jobs = {name: [name] for name in (*kept, "missing")}
    measure.run_missing(jobs)
    assert ran == [["of an older commit"], ["of another machine"], ["missing"]]
    ran.clear()
    measure.run_missing(jobs, again=True)
    assert len(ran) == 4


def test_a_job_that_fails_lets_the_others_run(ran, monkeypatch):
    monkeypatch.setattr(measure, "load", dict)
    with pytest.raises(SystemExit, match="failed: bad"):
        measure.run_missing({"bad": ["bad"], "good": ["good"]})
    assert ran == [["bad"], ["good"]]


def test_others_has_a_job_for_each_way(ran, monkeypatch):
    monkeypatch.setattr(measure, "load", dict)
    monkeypatch.setattr("sys.argv", ["others", "mini", "--ways", "pyvene", "hooks"])
    others.main()
    assert ran == [
        ["benchmarks.others", "mini", "--ways", way, "--repeats", "5", "--here"] for way in ("pyvene", "hooks")
    ]


def test_saved_with_date_commit_load_and_versions(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"old/entry": {"value": 1.0, "low": 1.0, "high": 1.0, "n": 1, "machine": {}}}))
    measure.save({"new": measure.spread([2.0]) | {"error": "so"}}, path, versions={"pyvene": "0.1.8"})
    found = json.loads(path.read_text())
    assert found["old/entry"]["value"] == 1.0
    assert found["new"].keys() == {
        "value", "low", "high", "n", "error", "machine", "date", "commit", "load", "versions"
    }
    assert found["new"]["versions"] == {"pyvene": "0.1.8"}


# Scaling


@pytest.mark.parametrize(("n_sites", "chosen"), scaling.SITES.items())
def test_sites_are_counted(n_sites, chosen):
    n_positions, kinds = chosen
    assert n_positions * len(kinds) * scaling.LAYERS[0] == n_sites


def test_one_thing_changes_at_a_time(monkeypatch):
    monkeypatch.setattr(scaling, "shaped", lambda *arguments: shaped(*arguments[:-1], hidden=64))  # a small one
    base, more_tokens, deeper, fewer = (
        scaling.questions_of(*setting)[0]
        for setting in (("layers", 8), ("visual_tokens", 64), ("layers", 16), ("sites", 16))
    )
    assert [(len(asked.subject.prompt.visual), asked.subject.model.n_layers, len(asked.positions))
            for asked in (base, more_tokens, deeper, fewer)] == [(256, 8, 23), (64, 8, 23), (256, 16, 23), (256, 8, 1)]
    assert fewer.n_sites == 16 and fewer.positions == (base.subject.prompt.last,)


def test_questions_are_of_one_model():
    first, second = mini_questions(2)
    assert first.model is second.model
    assert first.prompt.question != second.prompt.question
    assert all(len(subject.prompt) == len(subject.corrupted.input_ids) for subject in (first, second))
