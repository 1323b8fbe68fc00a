"""Parts of a study, run apart and put together; and the lines that say how far it is."""

from types import SimpleNamespace

import pandas as pd
import planted
import pytest
from answering import renamed

import interventions.progress as progress_module
import interventions.tracing.study as module
from interventions.errors import ParameterError
from interventions.progress import Progress
from interventions.studies.loop import RunOptions, in_shard
from interventions.studies.parameters import shard_of
from interventions.tracing.study import trace_study


@pytest.fixture(scope="module")
def model():
    return renamed(planted.build(), name="planted", revision="r1")


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    """Eleven questions, one of which cannot be used."""
    items = planted.items(tmp_path_factory.mktemp("flags"))[:11]
    items[4].image.with_name("broken.png").write_bytes(b"no picture")
    items[4] = type(items[4])(**vars(items[4]) | {"image": items[4].image.with_name("broken.png")})
    return items


def sorted_by_question(frame: pd.DataFrame, columns=("id",)) -> pd.DataFrame:
    """Rows in one order, and categories of one set: what putting tables together does not keep."""
    plain = frame.astype({name: object for name in frame if isinstance(frame[name].dtype, pd.CategoricalDtype)})
    return plain.sort_values(list(columns), ignore_index=True)


@pytest.mark.parametrize("n", [2, 3, 11])
def test_the_shards_together_are_the_whole_run(model, items, tmp_path, n):
    if n == 11:
        items = [item for item in items if "broken" not in str(item.image)] + items[:1]  # a shard each, all usable
        items[-1] = type(items[-1])(**vars(items[-1]) | {"id": "again"})
    whole = trace_study(model, items, window=1, run=RunOptions(results_dir=tmp_path / "whole"))
    shards = [trace_study(model, items, window=1, run=RunOptions(shard=f"{k}/{n}", results_dir=tmp_path / "shards"))
              for k in range(1, n + 1)]
    asked = [set(shard.questions["id"]) for shard in shards]
    assert sum(map(len, asked)) == len(set.union(*asked)) == len(items)  # disjoint, and nothing is left out
    assert max(map(len, asked)) - min(map(len, asked)) <= 1
    for name, order in (("questions", ["id"]), ("sites", ["id", "kind", "position", "layer"])):
        together = pd.concat([sorted_by_question(getattr(shard, name), order) for shard in shards])
        pd.testing.assert_frame_equal(
            sorted_by_question(together, order), sorted_by_question(getattr(whole, name), order)
        )
    assert whole.sites["effect"].max() > 0.5


def test_the_whole_run_picks_up_what_shards_have_stored(model, items, tmp_path, monkeypatch):
    done, trace = [], module.trace

    def watched(*arguments, **options):
        done.append(1)
        return trace(*arguments, **options)

    monkeypatch.setattr(module, "trace", watched)
    trace_study(model, items, window=1, run=RunOptions(shard="2/3", results_dir=tmp_path))
    assert len(done) == 3  # 4 of 11 questions, the broken image among them
    trace_study(model, items, window=1, run=RunOptions(shard="1/3", results_dir=tmp_path))
    trace_study(model, items, window=1, run=RunOptions(shard="3/3", results_dir=tmp_path))
    assert len(done) == 10
    whole = trace_study(model, items, window=1, run=RunOptions(results_dir=tmp_path))
    assert len(done) == 10  # nothing was computed again
    fresh = trace_study(model, items, window=1, run=RunOptions(results_dir=tmp_path / "fresh"))
    assert len(done) == 20
    pd.testing.assert_frame_equal(whole.sites, fresh.sites)
    pd.testing.assert_frame_equal(whole.questions, fresh.questions)


def test_a_shard_depends_on_the_questions_alone():
    assert in_shard(list("abcdefg"), "1/3") == ["a", "d", "g"]
    assert in_shard(list("abcdefg"), "3/3") == ["c", "f"]
    assert in_shard(list("abc"), "1/1") == in_shard(list("abc"), "") == ["a", "b", "c"]


def test_shards_are_one_of_so_many():
    assert [shard_of(shard) for shard in ("1/1", "1/8", "8/8", "10/12")] == [(1, 1), (1, 8), (8, 8), (10, 12)]


@pytest.mark.parametrize("shard", [
    "0/2", "3/2", "2", "2/", "/8", "two/eight", "1/0", "0/0", "-1/2", "1/2/3", "2.0/8", "1 / 2", " 1/2", "",
])
def test_a_shard_that_is_none_is_one_sentence(shard):
    with pytest.raises(ParameterError) as error:
        shard_of(shard)
    assert str(error.value) == f"Parameter 'shard' must be like '2/8' (the second of eight parts), not {shard!r}."


def test_a_study_refuses_a_shard_that_is_none(model, items, tmp_path):
    with pytest.raises(ParameterError, match="'shard' must be like '2/8'"):
        trace_study(model, items, run=RunOptions(shard="3/2", results_dir=tmp_path))


def test_more_shards_than_questions_is_one_sentence(model, items, tmp_path):
    with pytest.raises(ParameterError, match=r"'shard': '8/8' holds none of the 3 questions: use at most 3 parts\.$"):
        trace_study(model, items[:3], run=RunOptions(shard="8/8", results_dir=tmp_path))
    trace_study(model, items[:3], run=RunOptions(shard="3/8", results_dir=tmp_path), window=1)


# Progress


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: clock.now)
    return clock


def run(clock, total: int, seconds: float, **options) -> None:
    """All questions, so many seconds each."""
    progress = Progress(total, **options)
    for n in range(total):
        clock.now += seconds
        progress.step(f"{n // 2} used")
    progress.close(f"{total // 2} used")


@pytest.mark.parametrize(("total", "seconds", "line", "last"), [
    (40, 4.0, "8 of 40 questions, 3 used; 15 a minute, 2 min 8 s left", "40 questions asked, 20 used, in 2 min 40 s"),
    (20000, 0.004, "7501 of 20000 questions, 3750 used; 250 a second, 50 s left",
     "20000 questions asked, 10000 used, in 1 min 20 s"),
    (100, 25.0, "2 of 100 questions, 0 used; 2.4 a minute, 40 min 50 s left",
     "100 questions asked, 50 used, in 41 min 40 s"),
    (500, 90.0, "1 of 500 questions, 0 used; 40 an hour, 12 h 28 min left",
     "500 questions asked, 250 used, in 12 h 30 min"),
    (200, 0.4, "76 of 200 questions, 37 used; 2.5 a second, 50 s left", "200 questions asked, 100 used, in 1 min 20 s"),
])
def test_a_line_says_how_far_how_fast_and_how_long(clock, capsys, total, seconds, line, last):
    run(clock, total, seconds)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == line
    assert lines[-1] == last
    assert not any("e+" in text or "e-" in text for text in lines)  # no 1.2e+02
    assert sum(text == last for text in lines) == 1


def test_lines_come_every_half_minute_and_not_at_every_question(clock, capsys):
    run(clock, 100, 3.0)  # five minutes
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10  # after 33, 66, ... seconds, and at the end
    assert [int(line.split()[0]) for line in lines[:3]] == [11, 22, 33]
    run(clock, 5, 3.0)
    assert capsys.readouterr().out == "5 questions asked, 2 used, in 15 s\n"  # a short run is one line
    run(clock, 2, 40.0)
    assert len(capsys.readouterr().out.splitlines()) == 2  # nothing is left to announce at the last question


def test_what_is_read_back_says_nothing_of_how_fast_questions_are_asked(clock, capsys):
    progress = Progress(1000)
    for seconds, stored in ((0.01, True),) * 900 + ((10.0, False),) * 3:
        clock.now += seconds
        progress.step("0 used", stored=stored)
    assert capsys.readouterr().out == "903 of 1000 questions, 0 used; 4.6 a minute, 21 min 1 s left\n"
    progress = Progress(10)
    clock.now += 40  # of a slow disk
    progress.step("0 used", stored=True)
    assert capsys.readouterr().out == "1 of 10 questions, 0 used\n"


def test_lines_begin_with_their_label(clock, capsys):
    run(clock, 40, 4.0, label="window 3")
    assert all(line.startswith("window 3: ") for line in capsys.readouterr().out.splitlines())


def test_lines_are_plain_text_of_their_own(clock, capsys):
    """No carriage return, no bar: the same on a terminal, in papermill's log and in the saved notebook."""
    run(clock, 40, 10.0)
    output = capsys.readouterr().out
    assert all(line.isprintable() and len(line) < 100 for line in output.splitlines())
    assert output.endswith("\n")
    assert "\r" not in output


def test_a_study_says_how_many_questions_it_used(model, items, tmp_path, capsys, clock):
    trace_study(model, items[3:6], window=1, run=RunOptions(results_dir=tmp_path, label="mini"))
    assert capsys.readouterr().out == "mini: 3 questions asked, 2 used, in 0 s\n"
