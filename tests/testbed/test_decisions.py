"""The log of decisions, what stands in it, agreement between people, and the test bed that comes of it."""

import itertools
import json
import multiprocessing
import os
import warnings
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from interventions.statistics import bootstrap_counts
from interventions.testbed import Item, TestBedError, load_testbed, save_testbed
from interventions.testbed.provenance import history, rewrite
from interventions.testbed.verification import agreement as agreement_module
from interventions.testbed.verification.agreement import agreement, disputed, progress
from interventions.testbed.verification.decisions import DecisionLog
from interventions.testbed.verification.outcomes import OUTCOMES, apply_decisions, outcomes, summary, with_set_aside
from interventions.text import constraint_spans

FORK = multiprocessing.get_context("fork")  # a new interpreter would import the package for seconds


def item(number: int = 0, **changes) -> Item:
    fields = {
        "id": f"okvqa-{number}", "part": "okvqa", "question": f"Who built this old church number {number} in 1900?",
        "image": None, "visual_constraint": "this old", "visual_replacement": "St Paul's", "answers": ("Wren",),
        "paraphrases": ("The builder of this old church in 1900 is", "In 1900, this old building was built by"),
    }
    return Item(**fields | changes)


@pytest.fixture
def bed(tmp_path):
    save_testbed([item(n) for n in range(6)], tmp_path)
    return load_testbed(tmp_path)


@pytest.fixture
def log(tmp_path):
    return DecisionLog(tmp_path / "decisions.jsonl")


def whole(item: Item, text: str | None = None) -> Item:
    return item.with_constraints("this old church", text)


def lines(log: DecisionLog) -> list[dict]:
    return [json.loads(line) for line in log.path.read_text().splitlines()]


# The log


def test_a_decision_is_one_line(bed, log):
    assert not log.path.exists()
    log.decide(whole(bed.items[0], "1900"), "anna", "correct", text_replacement="1950", comment="cut\nshort \ud800 é")
    [line] = lines(log)
    assert line.pop("time").endswith("+00:00")
    assert len(line.pop("question_sha256")) == 64
    assert line == {
        "item": "okvqa-0", "annotator": "anna", "action": "correct", "visual_constraint": "this old church",
        "text_constraint": "1900", "visual_replacement": None, "text_replacement": "1950",
        "comment": "cut\nshort ? é", "blind": True,
    }


def test_the_last_decision_counts_and_undoing_brings_back_the_one_before(bed, log):
    one, two = bed.items[:2]
    log.decide(one, "anna", "accept")
    log.decide(one, "ben", "reject")
    log.decide(two, "anna", "reject")
    log.decide(one, "anna", "reject", blind=False)

    def stands(log, **blind):
        return {(i, name): d.action for i, people in log.standing(**blind).items() for name, d in people.items()}

    assert stands(log) == {(one.id, "anna"): "reject", (one.id, "ben"): "reject", (two.id, "anna"): "reject"}
    assert stands(log, blind=True)[one.id, "anna"] == "accept"
    assert log.decided("anna") == [one.id, two.id, one.id]
    log.undo("anna", one.id)
    assert stands(log)[one.id, "anna"] == "accept"
    log.undo("anna", one.id)
    assert stands(log) == stands(DecisionLog(log.path)) == {(one.id, "ben"): "reject", (two.id, "anna"): "reject"}
    assert log.decided("anna") == [two.id]
    with pytest.raises(TestBedError, match="Nothing to undo"):
        log.undo("anna", one.id)
    assert len(lines(log)) == 6


def test_what_cannot_be_decided_is_not_written(log):
    with pytest.raises(TestBedError, match="overlaps"):  # the item itself says so
        item().with_constraints("this old church", "church number")
    for decided, name, action, problem in (
        (item(), "anna", "approve", "action cannot be 'approve'"),
        (item(), " ", "accept", "annotator must be a name"),
        (item(visual_constraint="", visual_replacement=""), "anna", "accept", "not marked"),
    ):
        with pytest.raises(TestBedError, match=problem):
            log.decide(decided, name, action)
    assert not log.path.exists()
    log.decide(item(visual_constraint="", visual_replacement=""), "anna", "reject")  # nothing in it can be marked
    assert log.decided("anna") == ["okvqa-0"]


def test_a_line_cut_off_is_passed_over_and_the_next_one_is_whole(bed, log):
    log.decide(bed.items[0], "anna", "accept")
    log.decide(bed.items[1], "anna", "accept")
    written = log.path.read_bytes()
    log.path.write_bytes(written[:-40])
    torn = DecisionLog(log.path)
    assert torn.decided("anna") == ["okvqa-0"]
    torn.decide(bed.items[2], "anna", "reject")
    again = DecisionLog(log.path)
    assert again.decided("anna") == torn.decided("anna") == ["okvqa-0", "okvqa-2"]
    assert again.unreadable == torn.unreadable == [2]
    log.refresh()  # of a reader who had seen the line whole: the file is shorter, so it is read anew
    log.path.write_bytes(written[:-1])  # only the end of the line is missing
    log.refresh()
    assert log.decided("anna") == ["okvqa-0"]
    log.decide(bed.items[2], "anna", "reject")
    assert log.decided("anna") == ["okvqa-0", "okvqa-1", "okvqa-2"]


@pytest.mark.parametrize("line", [
    b"\xff\xfe", b"[1, 2]", b'"text"', b"{}", b'{"item": 1}',
    b'{"item": "okvqa-0", "question_sha256": "0", "annotator": "anna", "action": "approve"}',
    b'{"item": "okvqa-0", "question_sha256": "0", "annotator": "anna", "action": "accept", "text_constraint": 7}',
    b'{"item": "okvqa-0", "question_sha256": "0", "annotator": "anna", "action": "accept", "colour": "red"}',
])
def test_lines_that_are_no_decision_are_named(bed, log, line):
    log.path.write_bytes(line + b"\n\n")
    log.decide(bed.items[0], "anna", "accept")
    log.refresh()
    assert log.unreadable == [1]
    assert log.decided("anna") == ["okvqa-0"]


def test_a_log_that_cannot_be_used_is_one_sentence(bed, log, tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    with pytest.raises(TestBedError, match=r"folder cannot be read \(.*Is a directory"):
        DecisionLog(tmp_path / "folder")
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, line: write(file, line[:50]))
        with pytest.raises(TestBedError, match=r"written \(the disk is full\): what was to be added is not saved"):
            log.decide(bed.items[0], "anna", "accept")
    assert log.path.stat().st_size == 50
    log.decide(bed.items[1], "anna", "accept")
    assert log.decided("anna") == DecisionLog(log.path).decided("anna") == ["okvqa-1"]


def write_many(directory, name: str, n: int, told) -> None:
    bed, log = load_testbed(directory), DecisionLog(directory / "decisions.jsonl")
    for number in range(n):
        log.decide(bed.items[number % len(bed)], name, "accept", comment="c" * 5000 + str(number))
        told.send(number)


def writing(bed, name: str, n: int):
    """Another process that decides n times, and the end of the pipe on which it tells each decision."""
    here, there = FORK.Pipe(duplex=False)
    process = FORK.Process(target=write_many, args=(bed.directory, name, n, there))
    process.start()
    there.close()
    return process, here


def received(told) -> list[int]:
    numbers = []
    try:
        while True:
            numbers.append(told.recv())
    except EOFError:
        return numbers


def test_two_people_write_at_once(bed, log):
    writers = [writing(bed, name, 300) for name in ("anna", "ben")]
    for process, told in writers:
        assert received(told) == list(range(300))
        process.join()
    log.refresh()
    assert log.unreadable == []
    people = [line["annotator"] for line in lines(log)]
    for name in ("anna", "ben"):
        own = [line["comment"][5000:] for line in lines(log) if line["annotator"] == name]
        assert own == list(map(str, range(300)))
    assert sum(one != next_one for one, next_one in itertools.pairwise(people)) > 1  # they did write at once


def test_a_process_that_is_killed_loses_at_most_one_decision(bed, log):
    process, told = writing(bed, "anna", 100_000)
    for _ in range(30):
        told.recv()
    process.kill()
    process.join()
    n = 30 + len(received(told))
    log.refresh()
    assert n <= len(log.decided("anna")) <= n + 1
    log.decide(bed.items[0], "ben", "accept")
    assert len(DecisionLog(log.path).unreadable) <= 1
    assert log.decided("ben") == ["okvqa-0"]


# What becomes of the items


def test_every_item_is_accounted_for(bed, log):
    accepted, corrected, rejected, argued, reworded, _ = bed.items
    log.decide(accepted, "anna", "accept")
    log.decide(accepted, "ben", "accept")
    log.decide(whole(corrected, "1900"), "anna", "correct", visual_replacement="Big Ben", text_replacement="1950")
    log.decide(whole(corrected, "1900"), "ben", "correct")
    log.decide(rejected, "anna", "reject", comment="no church")
    log.decide(argued, "anna", "accept")
    log.decide(whole(argued), "ben", "correct")
    log.decide(replace(reworded, question="Who drew this old church?", paraphrases=()), "anna", "reject")
    found = outcomes(bed, log)
    assert found["outcome"].tolist() == list(OUTCOMES)
    assert found["annotators"].tolist() == ["anna, ben", "anna, ben", "anna", "anna, ben", "", ""]
    assert found["reason"].tolist() == ["", "", "anna: no church", "", "", ""]
    counts = apply_decisions(bed, log)
    assert counts == dict.fromkeys(OUTCOMES, 1) | {"items": 6, "kept": 5, "set aside": 1, "paraphrases left out": 1}
    assert summary(counts).splitlines() == [
        "1 accepted + 1 corrected + 1 rejected + 1 disputed + 1 stale + 1 undecided = 6 items",
        "5 kept + 1 set aside (in set_aside.jsonl)", "1 paraphrases without the corrected constraint left out",
    ]
    new = load_testbed(bed.directory)
    assert [i for i in new if i.id != corrected.id] == [accepted, argued, reworded, bed.items[5]]
    assert new.items[1] == replace(
        corrected, visual_constraint="this old church", visual_replacement="Big Ben", text_constraint="1900",
        text_replacement="1950", paraphrases=("The builder of this old church in 1900 is",),
    )
    step = history(bed.directory)[-1]
    assert step["command"] == "verify"
    assert step["counts"] == counts
    assert [file["name"] for file in step["inputs"]] == ["decisions.jsonl"]


def test_a_selection_is_no_reason_to_lose_the_rest(bed, log):
    log.decide(bed.items[0], "anna", "accept")
    assert apply_decisions(bed.select(limit=1), log)["items"] == 6
    assert load_testbed(bed.directory).items == bed.items


def test_applying_again_changes_nothing(bed, log):
    log.decide(whole(bed.items[0]), "anna", "correct")
    log.decide(bed.items[1], "anna", "reject")
    first = apply_decisions(bed, log)
    once = load_testbed(bed.directory)
    second = apply_decisions(once, log)
    assert load_testbed(bed.directory).items == once.items
    assert second == first | {"accepted": 1, "corrected": 0, "paraphrases left out": 0}


def test_a_replacement_that_was_chosen_later_stays(bed, log):
    log.decide(bed.items[0], "anna", "accept")
    later = [replace(bed.items[0], visual_replacement="Notre-Dame"), *bed.items[1:]]
    save_testbed(later, bed.directory)
    apply_decisions(load_testbed(bed.directory), log)
    assert load_testbed(bed.directory).items == tuple(later)


def test_a_replacement_can_be_taken_away(bed, log):
    log.decide(bed.items[0], "anna", "correct", visual_replacement="")
    apply_decisions(bed, log)
    assert load_testbed(bed.directory).items[0].visual_replacement == ""


def test_what_is_rejected_comes_back_when_the_decision_is_undone(bed, log, tmp_path):
    image = tmp_path / "images" / "red.png"
    image.parent.mkdir()
    image.write_bytes(b"picture")
    save_testbed([replace(i, image=image, annotations=("Wren",) * 10) for i in bed], tmp_path)
    bed = load_testbed(tmp_path)
    log.decide(bed.items[0], "anna", "reject")
    apply_decisions(bed, log)
    new = load_testbed(tmp_path)
    assert [i.id for i in new] == [i.id for i in bed][1:]
    assert with_set_aside(new).items == (*bed.items[1:], bed.items[0])
    [line] = (tmp_path / "set_aside.jsonl").read_text().splitlines()
    assert json.loads(line)["reason"] == "rejected by anna"
    with (tmp_path / "set_aside.jsonl").open("a") as file:
        file.write('{"reason": "cut o')
    log.undo("anna", bed.items[0].id)
    log.decide(bed.items[1], "anna", "accept")
    assert apply_decisions(new, log)["undecided"] == 5
    assert load_testbed(tmp_path).items == (*bed.items[1:], bed.items[0])
    assert with_set_aside(load_testbed(tmp_path)) == load_testbed(tmp_path)


def test_what_was_set_aside_meanwhile_does_not_come_back(bed, log):
    """Long work, such as `annotate`, ends after people have decided."""
    log.decide(bed.items[0], "anna", "reject")
    apply_decisions(load_testbed(bed.directory), log)
    done = [replace(one, visual_replacement="Notre-Dame") for one in bed]
    new = item(9)
    after = rewrite(bed, [*done, new], "annotate", counts={"annotated": 6})
    assert after.items == (*done[1:], new)
    assert history(bed.directory)[-1]["counts"] == {"annotated": 6, "changed meanwhile": 1}


def test_only_what_is_verified_can_be_kept(bed, log):
    log.decide(bed.items[0], "anna", "accept")
    log.decide(whole(bed.items[1]), "anna", "correct")
    counts = apply_decisions(bed, log, only_verified=True)
    assert (counts["kept"], counts["set aside"], counts["undecided"]) == (2, 4, 4)
    log.decide(bed.items[5], "anna", "accept")
    apply_decisions(load_testbed(bed.directory), log, only_verified=True)
    assert [i.id for i in load_testbed(bed.directory)] == ["okvqa-0", "okvqa-1", "okvqa-5"]
    reasons = [json.loads(line)["reason"] for line in (bed.directory / "set_aside.jsonl").read_text().splitlines()]
    assert reasons == ["not verified"] * 4  # each row once
    apply_decisions(load_testbed(bed.directory), log)
    assert {i.id for i in load_testbed(bed.directory)} == {i.id for i in bed}  # those nobody decided on are back


def test_one_person_can_be_preferred_in_disputes(bed, log):
    log.decide(bed.items[0], "anna", "accept")
    log.decide(bed.items[0], "ben", "reject")
    log.decide(bed.items[1], "ben", "reject")
    log.decide(bed.items[2], "anna", "accept")
    log.decide(whole(bed.items[2]), "ben", "correct")
    chosen = {name: outcomes(bed, log, prefer=name)["outcome"].tolist()[:3] for name in ("", "anna", "ben")}
    assert chosen == {
        "": ["disputed", "rejected", "disputed"], "anna": ["accepted", "rejected", "accepted"],
        "ben": ["rejected", "rejected", "corrected"],
    }
    with pytest.raises(TestBedError, match="prefer cannot be 'bne': the log has decisions of anna, ben"):
        outcomes(bed, log, prefer="bne")


def test_two_replacements_are_a_dispute_and_one_is_not(bed, log):
    log.decide(bed.items[0], "anna", "correct", visual_replacement="Big Ben")
    log.decide(bed.items[0], "ben", "accept")
    assert outcomes(bed, log)["outcome"][0] == "corrected"
    log.decide(bed.items[0], "ben", "correct", visual_replacement="the Louvre")
    assert outcomes(bed, log)["outcome"][0] == "disputed"


def test_nothing_is_written_without_decisions_or_without_items(bed, log):
    before = (bed.directory / "items.parquet").read_bytes()
    with pytest.raises(TestBedError, match="holds no decision: make some in"):
        apply_decisions(bed, log)
    for one in bed:
        log.decide(one, "anna", "reject")
    with pytest.raises(TestBedError, match="All 6 items would be set aside"):
        apply_decisions(bed, log)
    assert (bed.directory / "items.parquet").read_bytes() == before
    assert not (bed.directory / "set_aside.jsonl").exists()


def test_spans_are_those_that_the_experiments_find():
    question = "Is this church in this church older than B or B?"
    assert constraint_spans(question, "this church", "B") == {"visual": (3, 14), "text": (46, 47)}
    assert constraint_spans(question, "", None) == {}


# Agreement


@pytest.fixture
def many(tmp_path):
    save_testbed([item(n, paraphrases=()) for n in range(40)], tmp_path)
    return load_testbed(tmp_path)


def test_agreement_on_what_two_people_decided(many, log):
    rng = np.random.default_rng(0)
    verdicts = rng.random((40, 2)) < (0.7, 0.6)
    verdicts[:10] = True
    for one, (a, b) in zip(many, verdicts, strict=True):
        log.decide(one, "anna", "accept" if a else "reject")
        log.decide(whole(one, "1900") if one.id < "okvqa-2" else one, "ben", "accept" if b else "reject")
    log.decide(many.items[0], "carla", "accept")
    log.decide(many.items[0], "carla", "reject", blind=False)  # after she had seen the others'
    both = [one.id < "okvqa-2" for one, good in zip(many, verdicts.all(1), strict=True) if good]
    table = agreement(many, log)
    assert set(zip(table["a"], table["b"], strict=True)) == {("anna", "ben"), ("anna", "carla"), ("ben", "carla")}
    found = table[(table["a"] == "anna") & (table["b"] == "ben")].set_index("measure")
    assert found["value"].to_dict() == pytest.approx({
        "verdict": (verdicts[:, 0] == verdicts[:, 1]).mean(),
        "verdict: Cohen's kappa": cohen_kappa_score(*verdicts.T),
        "visual constraint: same": 1 - np.mean(both),
        "visual constraint: F1 of words": np.mean([0.8 if differs else 1 for differs in both]),  # two words of three
        "text constraint: both or neither": 1 - np.mean(both),
        "text constraint: F1 of words": 0,
    })
    assert found["n"].tolist() == [40, 40, len(both), len(both), len(both), sum(both)]
    assert (found["low"] <= found["value"]).all() and (found["value"] <= found["high"]).all()
    assert found.loc["verdict: Cohen's kappa", "low"] < found.loc["verdict: Cohen's kappa", "value"]
    carla = table[(table["a"] == "anna") & (table["b"] == "carla")].set_index("measure")
    assert carla.loc["verdict", ["value", "n"]].tolist() == [1, 1]  # her blind decision
    assert np.isnan(carla.loc["verdict: Cohen's kappa", "value"])


def test_agreement_on_text_constraints_both_marked(many, log):
    log.decide(whole(many.items[0], "1900"), "anna", "correct")
    log.decide(whole(many.items[0], "in 1900"), "ben", "correct")
    found = agreement(many, log).set_index("measure")["value"]
    assert found["text constraint: F1 of words"] == pytest.approx(2 / 3)
    assert found["text constraint: both or neither"] == 1
    assert found["visual constraint: same"] == 1


def test_stale_decisions_do_not_count(many, log):
    log.decide(many.items[0], "anna", "accept")
    log.decide(replace(many.items[0], question="Who drew this old church?"), "ben", "reject")
    assert agreement(many, log).empty
    assert disputed(many, log).empty
    assert progress(many, log).set_index("annotator")[["decided", "stale"]].to_dict("index") == {
        "anna": {"decided": 1, "stale": 0}, "ben": {"decided": 0, "stale": 1},
    }


def test_disputes_and_progress(many, log):
    log.decide(many.items[0], "anna", "accept")
    log.decide(whole(many.items[0], "1900"), "ben", "correct", comment="cut short")
    log.decide(many.items[1], "anna", "reject")
    log.decide(many.items[1], "ben", "reject")
    rows = disputed(many, log)
    assert rows[["id", "annotator", "action", "visual_constraint", "text_constraint", "comment"]].values.tolist() == [
        ["okvqa-0", "anna", "accept", "this old", "", ""],
        ["okvqa-0", "ben", "correct", "this old church", "1900", "cut short"],
    ]
    assert progress(many, log).values.tolist() == [["anna", 2, 40, 1, 0, 1, 0], ["ben", 2, 40, 0, 1, 1, 0]]


@pytest.mark.parametrize(("n", "p"), [(2, 0.5), (7, 0.9), (40, 0.7)])
def test_interval_of_kappa_has_scikit_learns_numbers(n, p):
    draws = np.random.default_rng(n)
    one = draws.random(n) < p
    verdicts = np.c_[one, one ^ (draws.random(n) < 0.3)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kappas = [cohen_kappa_score(*np.repeat(verdicts, counts, axis=0).T, labels=[False, True])
                  for counts in bootstrap_counts(n, seed=3)[:400]]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(agreement_module, "bootstrap_counts", lambda n, seed: bootstrap_counts(n, seed=seed)[:400])
            value, *interval = agreement_module._kappa(verdicts, 3)
        assert value == cohen_kappa_score(*verdicts.T)
    assert interval == list(np.nanquantile(kappas, (0.025, 0.975)))
