"""The key, and a password in the server's address, show nowhere: not in files, on terminals, in logs or exceptions."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys
import time
import traceback
import uuid
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asked
import matplotlib
import matplotlib.pyplot as plt
import nbformat
import nnsight
import pandas as pd
import pyarrow.parquet as pq
import pytest
import zstandard
from notebook_runs import NOTEBOOKS, outputs
from safetensors import safe_open

from interventions import build_prompt, edit_facts, errors, load_model, trace
from interventions.engine.forward import in_session
from interventions.errors import ModelError
from interventions.remote import http as ndif
from interventions.remote import jobs as remote
from interventions.reports.record import read_record
from interventions.studies.loop import RunOptions, question_loop
from interventions.studies.results import ResultStore

nnsight.register("asked")

USER, PASSWORD = "somebody", "canary-7c2e"
MALFORMED, UNKNOWN = "canary-5b1f", "c0ffee00-2222-3333-4444-555555555555"
BASIC = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()  # what a header makes of them
NOBODY = f"http://{USER}:{PASSWORD}@127.0.0.1:9"  # no server is there
QUESTIONS = 40  # of a run that does not get to its end


def with_password(host: str, password: str = PASSWORD) -> str:
    return host.replace("://", f"://{USER}:{password}@")


@pytest.fixture
def ask_with(server, monkeypatch):
    """`ask_with(key, host)`: requests go there with that key; by default, to the server with its trusted key."""
    def choose(key: str = server.keys["trusted"], host: str = with_password(server.host)) -> None:
        monkeypatch.setenv("NDIF_API_KEY", key)
        monkeypatch.setenv("NDIF_HOST", host)
    choose()
    return choose


# Searching


def contents(folder: Path) -> Iterator[tuple[str, str]]:
    """(name, content) of every file, and of what is packed inside of one."""
    for path in folder.rglob("*"):
        if path.is_file():
            raw = path.read_bytes()
            for content in (raw, *unpacked(path, raw)):
                yield path.name, content.decode(errors="replace") if isinstance(content, bytes) else content


def unpacked(path: Path, raw: bytes) -> Iterator[str | bytes]:
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        yield f"{table.schema.metadata} {table.to_pylist()}"
    if path.suffix == ".pdf":
        for packed in re.findall(rb"stream\r?\n(.*?)endstream", raw, re.DOTALL):
            stream = zlib.decompressobj().decompress(packed)
            yield stream
            yield b"".join(re.findall(rb"\((.*?)\)", stream))  # text is cut where letters are moved together
    if path.suffix == ".ipynb":
        for output in outputs(path):
            yield from (base64.b64decode(data) for kind, data in output.get("data", {}).items() if kind == "image/png")


def secrets_in(text: str) -> list[str]:
    return [secret for secret in (ndif.api_key(), MALFORMED, UNKNOWN, PASSWORD, BASIC) if secret in text]


def leaks(folder: Path, *secrets: str) -> set[tuple[str, str]]:
    """(file, secret) wherever there is one; quick to fail on a folder without files."""
    found = list(contents(folder))
    assert found
    return {(name, secret) for name, content in found for secret in secrets if secret in content}


def said(error: BaseException | None) -> str:
    """All that an exception and those before it say, printed or not."""
    if error is None:
        return ""
    lines = [*traceback.format_exception(error), str(error), repr(error), repr(error.args), repr(vars(error))]
    return "\n".join([*lines, said(error.__cause__), said(error.__context__)])


def picture(file, text: str = "", **metadata: str) -> None:
    figure = plt.figure()
    figure.text(0.1, 0.5, text)
    figure.savefig(file, metadata=metadata)
    plt.close(figure)


def notebook(path: Path) -> None:
    """One that shows a picture."""
    drawn = io.BytesIO()
    picture(drawn, Comment=MALFORMED)
    data = {"image/png": base64.b64encode(drawn.getvalue()).decode()}
    cell = nbformat.v4.new_code_cell(outputs=[nbformat.v4.new_output("display_data", data)])
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)


def table(folder: Path, **key: str) -> None:
    reasons = [*map(str, range(1000)), "zebra"] + [MALFORMED] * (not key)
    ResultStore(folder).get_or_compute({"table": "edit", "version": 2} | key, lambda: pd.DataFrame({"reason": reasons}))


@pytest.mark.parametrize(("packed", "plant"), [
    (False, lambda folder: (folder / "out.ipynb").write_text(json.dumps({"cells": [], "said": MALFORMED}))),
    (True, lambda folder: notebook(folder / "out.ipynb")),
    (True, table),
    (False, lambda folder: table(folder, server=MALFORMED)),
    (True, lambda folder: picture(folder / "drawn.pdf", MALFORMED)),
    (False, lambda folder: picture(folder / "written.pdf", Title=MALFORMED)),
    (False, lambda folder: picture(folder / "written.png", Title=MALFORMED)),
], ids=["notebook", "picture in it", "table", "its key", "pdf", "its title", "png"])
def test_the_search_finds_what_was_planted(tmp_path, packed, plant):
    plant(tmp_path)
    [file] = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert packed == (MALFORMED.encode() not in file.read_bytes())
    assert leaks(tmp_path, MALFORMED, UNKNOWN) == {(file.name, MALFORMED)}


def test_the_search_looks_behind_exceptions():
    def encode(key: str) -> None:
        try:
            key.encode("ascii")
        except UnicodeEncodeError:
            raise ValueError("no key") from None

    with pytest.raises(ValueError, match="no key") as raised:
        encode(f"{MALFORMED}…")
    assert MALFORMED not in "".join(traceback.format_exception(raised.value))
    assert MALFORMED in said(raised.value)


# Notebooks


class Runs:
    """Figure 2 on the server by papermill's command, as a user runs it: two at a time, each in a folder of its own,
    where its home, its output and what it prints are too."""

    def __init__(self, server, folder: Path) -> None:
        self.server, self.folder, self.pool = server, folder, ThreadPoolExecutor(2)
        self.revoked = str(uuid.uuid4())
        self.database(
            f"INSERT INTO keys VALUES ('{self.revoked}', 'somebody');"
            f"INSERT INTO key_user_tag_assignments VALUES ('{self.revoked}', 1)"
        )
        here = with_password(server.host)
        self.secrets = {
            "works": server.keys["trusted"], "malformed": MALFORMED, "unknown": UNKNOWN,
            "unreachable": server.keys["trusted"], "revoked": self.revoked,
        }
        self.codes = {
            name: self.pool.submit(self.run, name, key, NOBODY if name == "unreachable" else here)
            for name, key in self.secrets.items()
        }

    def run(self, name: str, key: str, host: str) -> int:
        """papermill's exit status."""
        out = self.folder / name
        (out / "home").mkdir(parents=True)
        given = {
            "remote": "true", "limit": QUESTIONS if name == "revoked" else 1, "results_dir": out / "results",
            "record_path": out / "fig2.record.json",
        }
        command = [Path(sys.executable).with_name("papermill"), NOTEBOOKS / "fig2_example.ipynb", out / "fig2.ipynb",
                   "--log-output", *(word for pair in given.items() for word in ("-p", *pair))]
        variables = os.environ | {
            "NDIF_HOST": host, "NDIF_API_KEY": key, "JUPYTER_PREFER_ENV_PATH": "1", "HOME": str(out / "home"),
            "MPLCONFIGDIR": matplotlib.get_cachedir(),  # else each run makes its list of fonts
        }
        with (out / "stdout").open("wb") as told, (out / "stderr").open("wb") as warned:
            process = subprocess.Popen(list(map(str, command)), env=variables, cwd=out, stdout=told, stderr=warned)
            while name == "revoked" and process.poll() is None and not list(out.glob("results/questions/*.parquet")):
                time.sleep(0.02)
            if name == "revoked":
                self.database(f"DELETE FROM keys WHERE key_id = '{key}'")
            return process.wait(timeout=180)

    def database(self, statements: str) -> None:
        """Run by the server's Postgres."""
        client = [self.server.postgres_binaries() / "psql", "-h", "127.0.0.1", "-p", self.server.near(3), "-U", "ndif"]
        self.server.run("keys", [*client, "-d", "postgres", "-v", "ON_ERROR_STOP=1", "-c", statements])

    def done(self, name: str) -> tuple[Path, int]:
        """The folder and the exit status of a run, in all of which there is no secret."""
        code, out = self.codes[name].result(), self.folder / name
        assert self.secrets[name] and not leaks(out, self.secrets[name], PASSWORD, BASIC)
        return out, code


@pytest.fixture(scope="module")
def runs(server, tmp_path_factory):
    runs = Runs(server, tmp_path_factory.mktemp("runs"))
    yield runs
    runs.pool.shutdown()


def test_a_notebook_that_works(runs, server):
    out, code = runs.done("works")
    assert code == 0
    told = read_record(out / "fig2.ipynb")["environment"]["server"]
    assert told["host"] == server.host and told["traffic"]["requests"] > 0
    kinds = {path.suffix for path in out.rglob("*") if path.is_file()}
    assert {".ipynb", ".json", ".parquet", ".png", ".pdf"} <= kinds
    assert "Key: accepted." in (out / "stdout").read_text() + (out / "stderr").read_text()


SENTENCES = {
    "malformed": r"does not accept the key in NDIF_API_KEY \(Invalid API key format: '\[key\]'.*: export the key of ",
    "unknown": r"does not accept the key in NDIF_API_KEY \(Invalid API key\): export the key of your account on that ",
    "unreachable": r"The server http://127\.0\.0\.1:9 does not answer \(.*refused\): check NDIF_HOST",
    "revoked": rf"the key in NDIF_API_KEY \(Invalid API key\)\. \d+ of {QUESTIONS} questions are done and kept: ",
}


@pytest.mark.parametrize("name", SENTENCES)
def test_a_notebook_that_fails_says_one_sentence(runs, name):
    out, code = runs.done(name)
    assert code != 0
    [error] = [output for output in outputs(out / "fig2.ipynb") if output.output_type == "error"]
    [sentence] = error.traceback
    assert re.search(SENTENCES[name], sentence) and "\n" not in sentence
    assert (out / "stderr").read_text().strip().splitlines()[-1] == sentence
    assert not (out / "fig2.record.json").exists()
    finished = list(out.glob("results/questions/*.parquet"))
    assert 0 < len(finished) < QUESTIONS if name == "revoked" else not finished


# Exceptions


def mistake(ask_with, key: str | None, host: str | None) -> None:
    ask_with(**{name: value for name, value in (("key", key), ("host", host)) if value is not None})


@pytest.mark.parametrize(("key", "host", "words"), [
    (MALFORMED, None, r"format: '\[key\]'"),
    (UNKNOWN, None, r"\(Invalid API key\)"),
    (None, NOBODY, "127.0.0.1:9 does not answer"),
    (f"{MALFORMED}\n", None, "NDIF_API_KEY"),  # as a file with a last line end, or another system's, gives it
    (f"{MALFORMED}\r\n", None, "NDIF_API_KEY"),
    (f" {MALFORMED} ", None, "NDIF_API_KEY"),
    (f"{MALFORMED}…", None, "NDIF_API_KEY"),  # copied from where it was cut
    (None, with_password("http://127.0.0.1:9", f"{PASSWORD}/x"), "NDIF_HOST"),  # what an address has to escape
    (None, with_password("http://127.0.0.1:9", f"{PASSWORD}#x"), "NDIF_HOST"),
    (None, with_password("http://127.0.0.1:9", f"{PASSWORD}?x"), "NDIF_HOST"),
    (None, with_password("http://127.0.0.1:9", f"[{PASSWORD}]"), "NDIF_HOST"),
    (None, with_password("http://127.0.0.1:9", f"x@{PASSWORD}"), "NDIF_HOST"),
    (None, NOBODY.removeprefix("http://"), "NDIF_HOST"),
], ids=["malformed", "unknown", "unreachable", "line end", "CR LF", "spaces", "not ASCII", "/", "#", "?", "[]", "@",
        "no scheme"])
def test_a_model_that_cannot_be_loaded(ask_with, key, host, words):
    mistake(ask_with, key, host)
    with pytest.raises(ModelError, match=words) as raised:
        load_model("mini", remote=True)
    assert "\n" not in str(raised.value)
    assert not secrets_in(said(raised.value))


@pytest.fixture
def model(ask_with):
    """Loaded, so that what goes wrong later can be seen."""
    return load_model("mini", remote=True)


@pytest.mark.parametrize(("key", "host", "kind", "words"), [
    (MALFORMED, None, errors.RequestRefused, r"'\[key\]'"),
    (UNKNOWN, None, errors.RequestRefused, "NDIF_API_KEY"),
    (f"{MALFORMED}…", None, errors.RequestRefused, "NDIF_API_KEY"),
    (None, NOBODY, errors.ServerUnreachable, "127.0.0.1:9 does not answer"),
    (None, None, errors.JobFailed, r"The server says: ValueError: layer \[key\] is not there"),
], ids=["malformed", "unknown", "not ASCII", "unreachable", "repeated in an error"])
def test_a_request_that_fails(model, ask_with, monkeypatch, key, host, kind, words):
    mistake(ask_with, key, host)
    monkeypatch.setenv("NDIF_PATIENCE", "0.1")
    with pytest.raises(kind, match=words) as raised:
        in_session(model.traced, asked.fail, {"layer": ndif.api_key()}, True)
    assert not secrets_in(said(raised.value))
    if kind is errors.JobFailed:
        assert "in fail" in said(raised.value)  # the server's traceback is searched, too


# Results, logs, and what a model and an edit say of themselves


def test_a_question_that_fails(model, tmp_path):
    """The reason is kept without the key, which the server has repeated."""
    items = asked.items(2)

    def compute(item):
        if item is items[1]:
            in_session(model.traced, asked.fail, {"layer": ndif.api_key()}, True)
        return pd.DataFrame([{"reason": "", "item": item.id}])

    found = question_loop(model, items, compute, key={"table": "edit", "version": 2}, purpose=("ask", "asked"),
        run=RunOptions(results_dir=tmp_path))
    assert found[0].reason == "" and "layer [key] is not there" in found[1].reason
    assert not secrets_in(repr(found))
    assert not leaks(tmp_path, ndif.api_key(), PASSWORD, BASIC)


def test_logs(ask_with, caplog, capfd):
    """All that any package logs, at the lowest level: of runs that work, and of requests that fail."""
    caplog.set_level(1)
    model = load_model("mini", remote=True)
    trace(model, *asked.both_prompts(model, asked.items(1)[0]), positions=("constraint",))
    for change in ({"key": MALFORMED}, {"key": UNKNOWN}, {"host": NOBODY}, {"key": f"{MALFORMED}\n"}):
        ask_with(**change)
        with pytest.raises(ModelError):
            load_model("mini", remote=True)
        ask_with()
    assert {"httpx", "httpcore.http11"} <= {entry.name for entry in caplog.records}
    everything = "".join([caplog.text, *(repr(vars(entry)) for entry in caplog.records), *capfd.readouterr()])
    assert not secrets_in(everything)


def test_models_and_edits(model, server, tmp_path):
    item = asked.items(1)[0]
    edit = edit_facts(model, [(build_prompt(model, item.question, item.image,
                                            visual_constraint=item.visual_constraint), "Peso")], layers=[2])
    path = edit.save(tmp_path / "edit.safetensors")
    with safe_open(path, "pt") as saved:
        assert saved.metadata()
    assert model.server.as_dict()["host"] == server.host
    texts = [model.server.as_dict(), vars(model.server), model.server, model, model.key(), edit]
    assert not any(secrets_in(f"{text} {text!r}") for text in texts)
    assert not leaks(tmp_path, ndif.api_key(), PASSWORD, BASIC)


def test_requests(model, monkeypatch):
    """The key travels in a header, and not in the request, which a server stores."""
    jobs = []

    class Kept(remote.Job):
        def __init__(self, key: str) -> None:
            super().__init__(key)
            jobs.append(self)

    monkeypatch.setattr("interventions.remote.jobs.Job", Kept)
    trace(model, *asked.both_prompts(model, asked.items(1)[0]), positions=("constraint",))
    assert jobs
    for job in jobs:
        request = zstandard.ZstdDecompressor().decompressobj().decompress(job.payload).decode(errors="replace")
        assert "down_proj" in request and not secrets_in(request + job.model_key)
