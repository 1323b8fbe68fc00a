"""Each fault, provoked on the real server: what a user sees, and that nothing finished is lost."""

from __future__ import annotations

import os
import signal
import threading
import time
from functools import partial

import asked
import nnsight
import pandas as pd
import psutil
import pytest
from server import answers
from wire import Wire

from interventions import errors, load_model, progress
from interventions.engine.forward import in_session
from interventions.errors import ModelError
from interventions.remote import http as ndif
from interventions.remote import jobs as remote
from interventions.studies.loop import RunOptions, question_loop
from interventions.studies.results import ResultStore

nnsight.register("asked")


@pytest.fixture
def model(trusted, server):
    yield load_model("mini", remote=True)
    server.wait(lambda: answers(f"{server.host}/connected"), "it does not recover", 60, "api")


@pytest.fixture
def wire(server, model, monkeypatch):
    wire = Wire(server.port)
    monkeypatch.setenv("NDIF_HOST", wire.address)
    yield wire
    wire.cut()


def request(model, function=asked.sleep, **content):
    return in_session(model.traced, function, content, True)


def tables(model, results, compute, n=3):
    """`ask` with one request an item: compute(i) -> (function, request)."""
    chosen = asked.items(n)

    def one(item):
        function, content = compute(chosen.index(item))
        in_session(model.traced, function, content, True)
        return pd.DataFrame([{"reason": "", "item": item.id}])

    return question_loop(model, chosen, one, key={"table": "trace_study", "version": 2}, purpose=("ask", "asked"),
        run=RunOptions(results_dir=results))


def later(seconds: float, action) -> threading.Timer:
    timer = threading.Timer(seconds, action)
    timer.start()
    return timer


def services(server, *words: str) -> list[psutil.Process]:
    """Processes of the server whose command line has all these words."""
    roots = [psutil.Process(one["pid"]) for one in server.processes.values()]
    found = [child for root in roots for child in [root, *root.children(recursive=True)]]
    return [one for one in found if one.is_running() and all(word in " ".join(one.cmdline()) for word in words)]


# Before the first item


def test_no_server(trusted, monkeypatch):
    monkeypatch.setenv("NDIF_HOST", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(ModelError, match=r"http://127.0.0.1:9 does not answer .*refused.*: check NDIF_HOST"):
        load_model("mini", remote=True)
    assert time.monotonic() - began < 5  # told at once, not after the patience of a run


@pytest.mark.parametrize(("key", "words"), [
    ("not-a-key", r"does not accept the key in NDIF_API_KEY \(Invalid API key format: '\[key\]'"),
    ("11111111-2222-3333-4444-555555555555", r"does not accept the key in NDIF_API_KEY \(Invalid API key\)"),
    ("", "NDIF_API_KEY is not set in the environment"),
])
def test_bad_keys(trusted, monkeypatch, key, words):
    monkeypatch.setenv("NDIF_API_KEY", key)
    with pytest.raises(ModelError, match=words) as refused:
        load_model("mini", remote=True)
    assert not key or key not in str(refused.value)


def test_unknown_model(here, trusted, tmp_path, monkeypatch):
    """A directory that only the client has."""
    load_model("mini", remote=True)  # which the server does have
    here.module.save_pretrained(tmp_path / "mine")
    here.processor.save_pretrained(tmp_path / "mine")
    key = remote.model_key

    def elsewhere(lm):
        return key(lm).replace(str(tmp_path), "/not/on/the/server")

    monkeypatch.setattr("interventions.remote.jobs.model_key", elsewhere)
    with pytest.raises(ModelError, match=r"does not run this model: .*Name a model that it serves") as refused:
        load_model(str(tmp_path / "mine"), remote=True)
    assert "checkpoints/mini" in str(refused.value)


def test_another_precision_than_the_servers(trusted):
    with pytest.raises(ModelError, match=r"dtype 'bfloat16' is not what .* serves 'mini' in, which is 'float32'"):
        load_model("mini", remote=True, dtype="bfloat16")
    with pytest.raises(ModelError, match="attn_implementation 'eager' is not what"):
        load_model("mini", remote=True, attn_implementation="eager")


# Faults of one item: a record of it, and the others go on


def test_an_exception_in_the_block(model, tmp_path):
    found = tables(model, tmp_path, lambda i: (asked.fail, {"layer": 99}) if i == 1 else (asked.sleep, {"seconds": 0}))
    assert [entry.reason for entry in found] == [
        "", "failed: JobFailed('The server says: ValueError: layer 99 is not there')", ""
    ]
    with pytest.raises(errors.JobFailed) as failed:
        request(model, asked.fail, layer=3)
    assert "in fail" in str(failed.value.__cause__)  # the server's traceback, for who asks


def test_the_servers_time_limit(hasty_server, tmp_path):
    began, model = time.monotonic(), load_model("mini", remote=True)
    found = tables(model, tmp_path, lambda i: (asked.sleep, {"seconds": 60 if i == 1 else 0}))
    assert time.monotonic() - began < 40
    assert [not entry.reason for entry in found] == [True, False, True]
    assert f"exceeded the execution timeout of {hasty_server.limit}" in found[1].reason
    assert "ask for fewer positions" in found[1].reason


# Faults that pass: the job is waited for or sent again


def test_a_cut_wire(model, wire):
    """While a job runs: its result is fetched when the wire is mended."""
    before = progress.TRAFFIC.requests
    later(0.5, wire.cut), later(3.0, wire.mend)
    assert request(model, seconds=1) == {"slept": 1}
    assert progress.TRAFFIC.requests == before + 1


def test_a_wire_cut_for_good(model, wire, tmp_path, monkeypatch):
    """The run ends with a sentence, what is finished is kept, and the next run goes on from there."""
    monkeypatch.setenv("NDIF_PATIENCE", "2")

    def compute(i):
        if i == 1:
            wire.cut()
        return asked.sleep, {"seconds": 0}

    with pytest.raises(errors.ServerUnreachable, match=r"does not answer .* 1 of 3 questions are done and kept"):
        tables(model, tmp_path, compute)
    assert len(list(ResultStore(tmp_path).directory.glob("*.parquet"))) == 1
    wire.mend()
    before = progress.TRAFFIC.requests
    assert all(not entry.reason for entry in tables(model, tmp_path, lambda i: (asked.sleep, {"seconds": 0})))
    assert progress.TRAFFIC.requests == before + 2


def test_a_server_that_takes_requests_and_says_nothing(model, wire, monkeypatch):
    monkeypatch.setattr(ndif, "_LIMITS", ndif.httpx.Timeout(1.0))
    monkeypatch.setattr(ndif, "_client", [])
    wire.mute()
    later(3.0, wire.mend)
    assert request(model, seconds=0) == {"slept": 0}


def test_a_killed_actor(model, server):
    """The process that holds the model and runs the job: the job is sent again, to the one that takes its place."""
    before = progress.TRAFFIC.requests

    def kill():
        for actor in services(server, "ray::CPUSandboxModelActor"):
            actor.kill()

    later(1.0, kill)
    assert request(model, seconds=3) == {"slept": 3}
    assert progress.TRAFFIC.requests > before + 1


def test_a_killed_api(model, server):
    """All of the service that a client talks to, restarted: what the actor computes meanwhile is still fetched."""
    def restart():
        for process in services(server, "ndif.services.api") + services(server, "spawn_main"):
            process.kill()
        server.forget_connection()
        server.start_api()

    restarted = later(1.0, restart)
    assert request(model, seconds=4) == {"slept": 4}
    restarted.join()


def test_a_lost_job(model, server, monkeypatch):
    """The queue stands still and the job is never heard of: after NDIF_PATIENCE it is sent again."""
    monkeypatch.setenv("NDIF_PATIENCE", "2")
    before = progress.TRAFFIC.requests
    dispatchers = services(server, "spawn_main")
    assert dispatchers
    for process in dispatchers:
        process.send_signal(signal.SIGSTOP)
    later(4.0, lambda: [process.send_signal(signal.SIGCONT) for process in dispatchers])
    assert request(model, seconds=0) == {"slept": 0}
    assert progress.TRAFFIC.requests > before + 1


def test_a_server_on_which_jobs_are_lost(model, monkeypatch):
    """Whoever sent the same job twice and heard nothing of either asks no third time."""
    monkeypatch.setenv("NDIF_PATIENCE", "1")
    with pytest.raises(remote._Silent, match="no news of it for 1 s"):
        remote.Job("")._wait("0" * 32)
    monkeypatch.setattr(remote.Job, "_submit", lambda job: "0" * 32)
    with pytest.raises(errors.ServerUnreachable, match=r"takes jobs, but nothing was heard of two .* no news of it"):
        request(model, seconds=0)


def test_a_queue(model, monkeypatch, capsys):
    """Behind another job: what the server says of the place in the queue is told, and the job is done in the end."""
    monkeypatch.setattr("interventions.progress._TELL_AFTER", 0.3)
    first = threading.Thread(target=partial(request, model, seconds=3))
    first.start()
    time.sleep(0.5)
    assert request(model, seconds=0) == {"slept": 0}
    first.join()
    assert "waiting for the server: " in capsys.readouterr().out


def test_a_large_result(model):
    """Beyond what Redis passes on: the store of results has it."""
    before = progress.TRAFFIC.bytes_down
    assert request(model, asked.big, megabytes=20)["zeros"].shape == (20 * 2**18,)
    assert progress.TRAFFIC.bytes_down - before > 15e6  # random numbers hardly shrink


def test_results_are_never_run(monkeypatch):
    """A server could send back anything; only tensors and plain Python are read."""
    class Sneaky:
        def __reduce__(self):
            return os.system, ("echo this must not run",)

    blob = remote.io.BytesIO()
    remote.torch.save({"result": Sneaky()}, blob)
    content = remote.zstandard.ZstdCompressor().compress(blob.getvalue())
    monkeypatch.setattr(remote, "get", lambda *_, **__: type("Answer", (), {"content": content}))
    with pytest.raises(errors.JobFailed, match=r"a result that cannot be read \(UnpicklingError\)"):
        remote.Job("")._fetch("http://anywhere")
