"""Annotating in parallel, at a cost, killed and begun again: no question is asked or paid for twice."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from annotating import bed, first_then, item, many
from openai_server import Said, asked, completion, good, is_judging, judged

from interventions.progress import Progress
from interventions.testbed import TestBedError, load_testbed
from interventions.testbed.annotation import run as annotating
from interventions.testbed.annotation.run import Requests, annotate
from interventions.testbed.provenance import history

pytestmark = pytest.mark.usefixtures("openai_key")


def test_as_many_as_are_allowed_are_in_flight_and_the_result_is_the_same(serve, tmp_path):
    running, most, lock = [0], [0], threading.Lock()

    def answer(request, number):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.05)
        with lock:
            running[0] -= 1
        return good(request)

    serve(answer)
    found = {}
    for concurrency in (1, 8):
        most[0] = 0
        testbed = bed(tmp_path / str(concurrency), *many(24))
        report = annotate(testbed, "parrot", requests=Requests(concurrency=concurrency))
        assert 1 <= most[0] <= concurrency
        assert (most[0] > 1) == (concurrency > 1)
        found[concurrency] = list(load_testbed(tmp_path / str(concurrency))), report.counts()
    assert found[1] == found[8]


def test_the_cost_adds_up(serve, tmp_path, capsys):
    server = serve(first_then(completion("no", (100, 7))))
    report = annotate(bed(tmp_path, *many(2)), "parrot", requests=Requests(concurrency=1, price_in=2.5, price_out=10))
    assert len(server.requests) == 5
    tokens = 3 * 100 + 2 * 60, 7 + 2 * 20 + 2 * 30  # what was wrong is paid for, too
    assert report.tokens == report.tokens_kept == tokens
    assert report.dollars == pytest.approx((tokens[0] * 2.5 + tokens[1] * 10) / 1e6)
    assert report.counts()["dollars"] == round(report.dollars, 4)
    assert re.search(r"527 tokens, \$0\.00\d of about \$0\.00\d", capsys.readouterr().out)
    testbed = bed(tmp_path, *many(3))
    report = annotate(testbed, "parrot", requests=Requests(price_in=2.5, price_out=10))
    assert report.tokens == (160, 50)
    assert report.tokens_kept == (580, 157)
    assert report.from_file == 2
    assert "tokens in, with earlier runs" in str(report)


def test_estimates_are_told_while_it_runs(serve, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(annotating, "Progress", lambda total, label: Progress(total, label, every=-1.0))
    serve(lambda request, number: good(request))
    annotate(bed(tmp_path, *many(4)), "parrot", requests=Requests(concurrency=1, price_in=1e4, price_out=0))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("annotate: 1 of 4 questions, 0 failed, 210 tokens, $1.600 of about $6.400; ")
    assert re.search(r" a second, \d+ s left$", lines[0])
    assert len(lines) == 4


def test_a_run_that_is_killed_goes_on_without_asking_twice(serve, tmp_path):
    stop, n = threading.Event(), 9
    server = serve(lambda request, number: Said(held=stop) if number >= n else good(request))
    bed(tmp_path, *many(12))
    process = run_annotate(tmp_path, "concurrency=3")
    kept = tmp_path / "annotations.jsonl"
    wait_until(lambda: len(server.requests) == n + 3 and kept.read_bytes().count(b"\n") == n)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    stop.set()
    answered = list(map(json.dumps, server.requests[:n]))
    assert not any(i.visual_constraint for i in load_testbed(tmp_path))
    with kept.open("ab") as file:
        file.write(b'{"key": "torn off in the mid')

    server = serve()
    report = annotate(load_testbed(tmp_path), "parrot", requests=Requests(concurrency=3))
    assert report.count("annotated") == 12
    asked_now = list(map(json.dumps, server.requests))
    assert len(asked_now) == 2 * 12 - n == len(set(asked_now))
    assert not set(asked_now) & set(answered)
    assert report.from_file == 12 - len({asked_or_judged(r) for r in server.requests})
    lines = kept.read_text().splitlines()
    assert len(lines) == 25 and sum(line.endswith("mid") for line in lines) == 1
    assert {json.loads(line)["model"] for line in lines if not line.endswith("mid")} == {"parrot"}

    server = serve()
    assert annotate(load_testbed(tmp_path), "parrot", which="all").from_file == 12
    assert server.requests == []


def test_an_interrupt_ends_the_run_at_once_and_keeps_what_is_there(serve, tmp_path):
    stop = threading.Event()
    server = serve(lambda request, number: Said(held=stop) if number >= 4 else good(request))
    bed(tmp_path, *many(12))
    process = run_annotate(tmp_path, "concurrency=1")
    wait_until(lambda: len(server.requests) == 5)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[0]
    assert time.monotonic() - began < 10
    stop.set()
    assert "Interrupted; 2 of 12 questions are done and kept: start again to go on." in told
    assert process.returncode != 0
    assert [bool(i.visual_replacement) for i in load_testbed(tmp_path)] == [True] * 2 + [False] * 10
    assert history(tmp_path)[-1]["counts"]["not asked"] == 10


def asked_or_judged(request):
    """What tells a question's two chats from those of others."""
    text = judged(request)[0] if is_judging(request) else asked(request)
    return re.search(r"year \d+", text)[0]


def run_annotate(directory, options):
    # Started in the background of a shell, as CI may be, a process ignores interrupts, and so do its children.
    code = (f"import signal\n"
            f"signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            f"from interventions.testbed import load_testbed\n"
            f"from interventions.testbed.annotation.run import Requests, annotate\n"
            f"annotate(load_testbed({str(directory)!r}), 'parrot', requests=Requests({options}))")
    root = Path(__file__).parents[2]
    return subprocess.Popen([sys.executable, "-c", code], cwd=root, env=os.environ, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def wait_until(condition, seconds=120):
    began = time.monotonic()
    while True:
        try:
            if condition():
                return
        except OSError:
            pass
        assert time.monotonic() - began < seconds
        time.sleep(0.02)


def test_a_file_of_replies_that_cannot_be_used(serve, tmp_path):
    serve()
    (tmp_path / "annotations.jsonl").mkdir()
    with pytest.raises(TestBedError, match="cannot be read"):
        annotate(bed(tmp_path, item()), "parrot")


def test_a_reply_goes_to_a_line_of_its_own_behind_one_that_another_run_left_unfinished(serve, tmp_path):
    kept = tmp_path / "annotations.jsonl"

    def cut_off(request, number):
        with kept.open("ab") as file:
            file.write(b'{"key": "torn off')
        return good(request)

    serve(cut_off)
    assert annotate(bed(tmp_path, item()), "parrot", requests=Requests(concurrency=1)).count("annotated") == 1
    assert [line for line in kept.read_bytes().splitlines() if line.count(b"key") > 1] == []
    server = serve()
    assert annotate(load_testbed(tmp_path), "parrot", which="all").from_file == 1
    assert server.requests == []


def test_a_full_disk_ends_the_run_in_one_sentence(serve, tmp_path, monkeypatch):
    serve()
    bed(tmp_path, item())
    monkeypatch.setattr(os, "write", lambda file, lines: 0)
    with pytest.raises(TestBedError, match=r"cannot be written \(the disk is full\): what .* not saved; 0 of 1 quest"):
        annotate(load_testbed(tmp_path), "parrot", requests=Requests(concurrency=1))


def test_lines_of_others_in_the_file_are_passed_over(serve, tmp_path):
    server = serve()
    (tmp_path / "annotations.jsonl").write_text('[1]\n{"key": 3}\n\n"x"\nnull\n{"key": "a", "text": "b"}\n')
    assert annotate(bed(tmp_path, item()), "parrot").count("annotated") == 1
    assert len(server.requests) == 2
