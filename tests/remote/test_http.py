"""What of remote runs needs no server; the rest is in tests/ndif, against a real one."""

import itertools
import json
import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from nnsight.schema.config import CONFIG

from interventions import errors, load_model, progress
from interventions.errors import ModelError, ParameterError
from interventions.progress import Progress
from interventions.remote import http as ndif
from interventions.remote import jobs as remote
from interventions.studies.loop import RunOptions
from interventions.tracing.parameters import Fig3Parameters
from interventions.tracing.study import trace_study

KEY = "canary-5b1f"


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("NDIF_API_KEY", KEY)
    monkeypatch.setenv("NDIF_HOST", "http://somebody:secret@127.0.0.1:9/")
    monkeypatch.setattr(ndif, "BACK_OFF", 0.01)
    monkeypatch.setattr(ndif, "_client", [])


@pytest.fixture
def answering(monkeypatch):
    """An HTTP server that answers with what is in `answers` (status, body; the last one for ever); `seen` are the
    headers of the requests."""
    class Handler(BaseHTTPRequestHandler):
        answers: tuple = ()
        seen: tuple = ()

        def do_GET(self):
            Handler.seen += (dict(self.headers),)
            status, body = Handler.answers[min(len(Handler.seen), len(Handler.answers)) - 1]
            data = (json.dumps(body) if isinstance(body, dict) else body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Handler.address = f"127.0.0.1:{server.server_port}"
    monkeypatch.setenv("NDIF_HOST", f"http://somebody:secret@{Handler.address}")
    yield Handler
    server.shutdown()
    server.server_close()


def test_the_key_and_the_passwords_of_addresses_are_taken_out_of_texts(monkeypatch):
    said = f"Invalid API key format: '{KEY}' at http://somebody:secret@127.0.0.1:9/request"
    assert ndif.without_key(said) == "Invalid API key format: '[key]' at http://127.0.0.1:9/request"
    assert ndif.shown(ndif.host()) == "http://127.0.0.1:9"
    monkeypatch.delenv("NDIF_API_KEY")
    assert ndif.api_key() == "" and ndif.without_key("no key") == "no key"


def test_the_environment_is_the_only_place_for_the_key(monkeypatch):
    """A key that nnsight stored for the public service is not sent to whatever NDIF_HOST names."""
    monkeypatch.setattr(CONFIG.API, "APIKEY", "stored")
    assert ndif.api_key() == KEY
    monkeypatch.delenv("NDIF_API_KEY")
    assert ndif.api_key() == ""
    monkeypatch.delenv("NDIF_HOST")
    assert ndif.host() == CONFIG.API.HOST


def test_what_is_shorter_than_a_word_is_no_key(monkeypatch):
    """A server without accounts takes any text: that must not garble what it says."""
    monkeypatch.setenv("NDIF_API_KEY", "a")
    assert ndif.without_key("Replica was evicted") == "Replica was evicted"


@pytest.mark.parametrize("told", ["10m", "nan", "-1"])
def test_a_patience_that_is_no_number_is_refused(monkeypatch, told):
    monkeypatch.setenv("NDIF_PATIENCE", told)
    with pytest.raises(errors.RequestRefused, match="NDIF_PATIENCE must be a number of seconds"):
        ndif.patience()


@pytest.mark.parametrize(("status", "body", "error", "words"), [
    (503, {"detail": "reconnecting"}, errors.ServerUnreachable, r"is not ready \(503: reconnecting\)"),
    (429, "slow down", errors.ServerUnreachable, r"\(429: slow down\)"),
    (403, {"detail": "Invalid API key."}, errors.KeyRefused, "does not accept the key in NDIF_API_KEY"),
    (400, {"detail": f"Invalid API key format: '{KEY}'"}, errors.RequestRefused, r"format: '\[key\]'"),
    (401, {"detail": "Not authenticated"}, errors.KeyRefused, "does not accept the key in NDIF_API_KEY"),
    (403, {"detail": "API_KEY expired"}, errors.KeyRefused, "does not accept the key in NDIF_API_KEY"),
    (400, {"detail": "model_key is missing"}, errors.RequestRefused, r"refuses requests \(400: model_key is missing\)"),
    (403, {"detail": "Turkey-8B is not open to you"}, errors.RequestRefused, r"refuses requests \(403: Turkey-8B is"),
    (400, "KeyError: 'layers'", errors.RequestRefused, r"refuses requests \(400: KeyError: 'layers'\)"),
    (400, {"detail": "nnsight is too old"}, errors.RequestRefused, r"refuses requests \(400: nnsight is too old\)"),
    (422, {"detail": ["bad envelope"]}, errors.JobFailed, "refuses this request .*bad envelope"),
    (413, "", errors.JobFailed, "no reason given"),
])
def test_answers_of_a_server_become_sentences(answering, status, body, error, words):
    answering.answers = ((status, body),)
    with pytest.raises(error, match=words) as failed:
        ndif.get("/status")
    assert isinstance(failed.value, errors.KeyRefused) == ("the key in NDIF_API_KEY" in str(failed.value))
    assert KEY not in str(failed.value) and "secret" not in str(failed.value)
    assert failed.value._render_traceback_() == [str(failed.value)]  # all that a notebook shows


def test_passing_faults_are_waited_out_and_the_key_goes_to_no_other_server(answering):
    answering.answers = *((503, "not yet"),) * 3, (200, "there")
    before = progress.TRAFFIC.repeated
    assert ndif.get("/response/1", patient=True).text == "there"
    assert len(answering.seen) == 4 and progress.TRAFFIC.repeated == before + 3
    assert all(headers["ndif-api-key"] == KEY for headers in answering.seen)
    ndif.get(f"http://{answering.address}/store/result.pt")
    assert "ndif-api-key" not in answering.seen[-1]


def test_an_internal_error_that_stays_is_the_requests_own(answering):
    answering.answers = ((500, "Internal server error."),)
    with pytest.raises(errors.JobFailed, match="500: Internal server error"):
        ndif.get("/response/1", patient=True)
    assert len(answering.seen) == 5


@pytest.mark.parametrize(("answers", "asked"), [
    ([503] * 6 + [500] * 5, 11),
    ([500] * 4 + [503] * 3 + [500], 8),
])
def test_only_internal_errors_count_for_a_request_that_makes_them(answering, answers, asked):
    """A server that comes up again may fail in many ways first."""
    answering.answers = tuple((status, "no") for status in answers)
    with pytest.raises(errors.JobFailed, match="500: no"):
        ndif.get("/response/1", patient=True)
    assert len(answering.seen) == asked
    answering.seen, answering.answers = (), (*((503, "no"),) * 4, (500, "no"), (200, "there"))
    assert ndif.get("/response/1", patient=True).text == "there"


def test_what_is_waited_for_is_told_of_the_address_that_does_not_answer(monkeypatch, capsys):
    """The store of results has an address of its own, which NDIF_HOST does not change."""
    monkeypatch.setattr(progress, "_TELL_AFTER", 0.0)
    monkeypatch.setattr(progress, "_last_line", [0.0])
    monkeypatch.setenv("NDIF_PATIENCE", "1")
    monkeypatch.setenv("NDIF_HOST", "http://elsewhere:8000")
    with pytest.raises(errors.ServerUnreachable):
        ndif.get("http://127.0.0.1:9/store/result.pt", patient=True)
    [line, *_] = capsys.readouterr().out.splitlines()
    assert line.startswith("The server http://127.0.0.1:9 does not answer (") and "elsewhere" not in line
    assert line.endswith("clients reach. Trying again for up to 1 s.")


def test_a_link_to_a_result_that_has_expired_is_no_refused_key(answering):
    answering.answers = ((403, "<Error>InvalidAccessKeyId</Error>"),)
    with pytest.raises(errors.NothingThere):
        ndif.get(f"http://{answering.address}/store/result.pt")


@pytest.mark.parametrize(("said", "error", "words"), [
    ("Error provisioning model. Please try again later.", remote._NotReady, "provisioning"),
    ("Replica was evicted while processing your request.", remote._Lost, "was evicted"),
    ("Could not deploy this model. Repository Not Found", errors.NotServed, "does not run this model"),
    ("Your job exceeded the execution timeout of 5.0s.", errors.JobFailed, "fewer positions"),
    (f"Traceback\nValueError: {KEY} is wrong", errors.JobFailed, r"ValueError: \[key\] is wrong"),
])
def test_what_servers_say_of_jobs(said, error, words):
    with pytest.raises(error, match=words):
        remote.Job("")._raise(said)


def test_a_cluster_that_comes_up_is_waited_for_longer_than_a_job_is_repeated(monkeypatch):
    """A restart of some minutes costs no question; one of longer than the patience ends the run."""
    tried = []

    def wait(job, name):
        tried.append(name)
        if len(tried) < 3 * remote.SUBMISSIONS:
            raise remote._NotReady("the server said 'Error starting model'")
        return {"result": 1}

    monkeypatch.setattr(remote, "back_off", lambda attempt: 0.0)
    monkeypatch.setattr(remote.Job, "_submit", lambda job: "id")
    monkeypatch.setattr(remote.Job, "_wait", wait)
    assert remote.Job("").result() == {"result": 1}
    tried.clear()
    monkeypatch.setenv("NDIF_PATIENCE", "0")
    with pytest.raises(errors.ServerUnreachable, match="has not been ready for 0 s"):
        remote.Job("").result()


def test_a_job_that_runs_for_long_is_waited_for(answering, monkeypatch):
    """Ten patiences without anything new, but running."""
    monkeypatch.setenv("NDIF_PATIENCE", "0.1")
    monkeypatch.setattr(remote, "STANDING", 1000)
    running = {"id": "1", "status": "RUNNING", "description": "Your job has started running."}
    done = {"id": "1", "status": "ERROR", "description": "ValueError: done"}
    answering.answers = *((200, running),) * 12, (200, done)
    with pytest.raises(errors.JobFailed, match="ValueError: done"):
        remote.Job("")._wait("1")
    answering.seen, answering.answers = (), ((200, "<html>log in</html>"),)
    with pytest.raises(errors.ServerUnreachable, match="is no NDIF server"):
        remote.Job("")._wait("1")


def test_repetitions_back_off_and_spread():
    state = random.getstate()
    slept = [ndif.back_off(attempt) for attempt in (*range(1, 11), 5000) for _ in range(20)]
    assert random.getstate() == state  # pauses must not move what an experiment draws
    means = [sum(slept[20 * k: 20 * k + 20]) / 20 for k in range(11)]
    assert all(later > earlier for earlier, later in itertools.pairwise(means[:7]))
    assert len(set(slept[:20])) > 10 and max(slept) <= 60 * 1.5


def test_traffic_is_counted_and_told(monkeypatch, capsys):
    traffic = progress.Traffic(3, 250_000, 1_200, 1)
    assert str(traffic) == "3 requests, 1 repeated, 0.2 MB up, 1.2 kB down"
    told = Progress(3)
    told.close("3 used")
    assert capsys.readouterr().out == "0 questions asked, 3 used, in 0 s\n"
    monkeypatch.setattr(progress.TRAFFIC, "requests", progress.TRAFFIC.requests + 2)
    told.close("3 used")
    assert "in 0 s (2 requests, 0.0 kB up, 0.0 kB down)" in capsys.readouterr().out


def test_a_model_is_known_by_its_directory_or_id():
    class Traced:
        revision, task, repo_id = None, "image-text-to-text", "/"

        def to_model_key(self):
            raise RuntimeError("whatever a Hub's client raises")

    named = '"revision": null, "task": "image-text-to-text"}'
    assert remote.model_key(Traced()).endswith(f'Traced:{{"repo_id": "/", {named}')
    Traced.repo_id = "org/name"
    assert remote.model_key(Traced()).endswith(f'Traced:{{"repo_id": "org/name", {named}')
    Traced.repo_id, asked = "org/other", []
    Traced.to_model_key = lambda self: asked.append(1) or "as the Hub spells it"
    assert [remote.model_key(Traced()) for _ in range(3)] == ["as the Hub spells it"] * 3
    assert asked == [1]  # not before every request


def test_remote_as_a_parameter():
    assert Fig3Parameters.from_notebook({"remote": "true"}).remote is True
    assert Fig3Parameters.from_notebook({"remote": "false"}).remote is False
    with pytest.raises(ParameterError, match="concurrency"):  # a parameter of earlier versions
        Fig3Parameters.from_notebook({"concurrency": 4})


def test_a_model_that_was_loaded_here_does_not_run_there():
    """Nobody has looked at the server's precision, so the method chosen here might not fit."""
    model = load_model("mini")
    with pytest.raises(ModelError, match=r"needs a model that is on a server: load_model\('mini', remote=True"):
        model.runs_on(True)
    assert model.runs_on(None) is False and model.runs_on("local") == "local"


@pytest.mark.parametrize("remote", [False, "local"])
def test_a_model_that_is_on_a_server_does_not_run_here(remote, tmp_path):
    """nnsight would load the weights then, and what they give would be stored as the server's."""
    model = load_model("mini")
    model.remote = True
    with pytest.raises(ModelError, match=r"needs the weights of model 'mini', .* without remote to run it here"):
        trace_study(model, [], run=RunOptions(remote=remote, results_dir=tmp_path))
    assert model.runs_on(None) is True and model.runs_on(True) is True


@pytest.mark.parametrize("remote", ["True", "loacl", "https://api.ndif.us", 1, 0, ""])
def test_anything_else_is_no_place_to_run(remote):
    """nnsight takes a text for the address of a server, and sends requests there in its own way."""
    with pytest.raises(ModelError, match=r"remote must be True .*, False or 'local', not "):
        load_model("mini", remote=remote)
    model = load_model("mini")
    with pytest.raises(ModelError, match=f"False or 'local', not {remote!r}"):
        model.runs_on(remote)
    model.remote = remote
    with pytest.raises(ModelError, match=f"False or 'local', not {remote!r}"):
        model.generate_answer(None, "Who?")
