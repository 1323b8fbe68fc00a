"""Requests to an NDIF server: jobs that outlast what networks and servers do.

A job is submitted and then asked for, over HTTP; no connection is held open, so none can be lost. Interventions change
nothing on a server, so one that is lost, or whose actor died, is simply submitted again. What cannot succeed (a key
that is refused, a model that is not served) is told at once. The key is read from the environment when it is needed,
and taken out of whatever a server or a library says.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import torch
import zstandard
from nnsight import __version__ as nnsight_version
from nnsight.schema.config import CONFIG
from nnsight.schema.request import RequestModel
from nnsight.schema.response import ResponseModel, Status
from nnsight.tracing.backend import Backend
from nnsight.util import to_import_path

from .turns import others_turn

SUBMISSIONS = 4  # of one job, before it is given up
BACK_OFF = 1.0  # seconds before the first repetition; doubled each time, and spread by half
FIRST_POLL, LAST_POLL = 0.01, 2.0  # seconds between two questions after a job; a tenth of its age between them
_LIMITS = httpx.Timeout(10.0, read=60.0, write=120.0)
# Answers of proxies and of a cluster that is coming back. Others would be the same the next time.
_PASSING_CODES = (408, 425, 429, 500, 502, 503, 504)
# What a server says of a job that was well and would run on another actor, or later.
_PASSING_FAULTS = (
    "Error submitting request", "was evicted", "cancelled or preempted", "Error starting model",
    "Error provisioning model", "temporarily unavailable",
)
_SECRET = "[key]"
_TELL_AFTER = 30.0  # seconds of waiting until the first line says so, and between lines


class NDIFError(RuntimeError):
    """What went wrong with a server, in one sentence that never holds the key."""

    def _render_traceback_(self) -> list[str]:
        """What IPython prints in place of a traceback."""
        return [str(self)]


class ServerUnreachable(NDIFError):
    """No answer for as long as one was waited for: no other request would get one."""


class RequestRefused(NDIFError):
    """The server will not take requests of this key, for this model or from this version."""


class JobFailed(NDIFError):
    """This one request failed there, and would again."""


def host() -> str:
    """The server's address: NDIF_HOST, or that of nnsight's configuration (the public service)."""
    return (os.environ.get("NDIF_HOST") or CONFIG.API.HOST).rstrip("/")


def shown(address: str) -> str:
    """The server of an address, without a user name and password that it may hold."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def api_key() -> str:
    """NDIF_API_KEY, or what `nnsight login` stored; empty if there is none."""
    return os.environ.get("NDIF_API_KEY") or CONFIG.API.APIKEY or ""


def without_key(text: str) -> str:
    """A text without the key, and without the password of an address."""
    text = re.sub(r"(\w+://)[^/@\s]+@", r"\1", text)
    return text.replace(api_key(), _SECRET) if api_key() else text


def patience() -> float:
    """Seconds without news after which a server or a job counts as lost: NDIF_PATIENCE, or ten minutes."""
    return float(os.environ.get("NDIF_PATIENCE") or 600)


def model_key(lm) -> str:
    """What a server knows nnsight's model by: its Hub id (spelled as the Hub does, if it can be asked) or directory.

    A directory has to be the same one on the server: a file system that both see.
    """
    if not Path(lm.repo_id).is_dir():
        try:
            return lm.to_model_key()
        except (OSError, ValueError):  # no Hub within reach
            pass
    named = {"repo_id": lm.repo_id, "revision": lm.revision, "task": lm.task}
    return f"{to_import_path(type(lm))}:{json.dumps(named)}"


@dataclass
class Traffic:
    """What went to servers and came back in this process: jobs, bytes of requests and of answers, repetitions."""

    requests: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    repeated: int = 0

    def __str__(self) -> str:
        again = f", {self.repeated} repeated" if self.repeated else ""
        return f"{self.requests} requests{again}, {_size(self.bytes_up)} up, {_size(self.bytes_down)} down"

    def since(self, before: Traffic) -> Traffic:
        """What was added."""
        return Traffic(**{name: value - getattr(before, name) for name, value in vars(self).items()})


TRAFFIC = Traffic()
_client: list[httpx.Client] = []
_told = [0.0]


def get(path: str, *, patient: bool = False) -> httpx.Response:
    """What a server answers to GET; an address of its own for another service, such as a store of results.

    patient: connection faults and passing codes are waited out, see `patience`. Raises NDIFError.
    """
    return _waiting_out(lambda: _send("GET", path), patience() if patient else 0.0)


class Job(Backend):
    """One session as a job: `with lm.session(backend=job): …`, then `job.result()`."""

    def __init__(self, key: str) -> None:
        """key: of the model, see `model_key`."""
        self.model_key, self.payload = key, b""

    def __call__(self, tracer) -> None:
        """What nnsight does with a captured block: here, keep it for `result`."""
        self.payload = RequestModel.serialize(tracer, compress=True)

    def result(self) -> dict:
        """The values saved in the block, on the CPU. Raises ServerUnreachable, RequestRefused or JobFailed."""
        for attempt in range(SUBMISSIONS):
            if attempt:
                TRAFFIC.repeated += 1
                _pause(attempt)
            try:
                return self._wait(self._submit())
            except _Lost as lost:
                reason = lost
        raise JobFailed(f"The job was lost {SUBMISSIONS} times, the last time because {reason}.")

    def _submit(self) -> str:
        envelope = RequestModel(model_key=self.model_key, compress=True)
        job = _waiting_out(lambda: _send(
            "POST", "/request", data={"data": envelope.metadata()},
            files={"blob": ("request", self.payload, "application/octet-stream")},
        ), patience())
        TRAFFIC.requests += 1
        return ResponseModel.model_validate_json(job.text).id

    def _wait(self, job: str) -> dict:
        """Ask for a job until it is done. Raises _Lost for what is worth another try."""
        began = heard = time.monotonic()
        news, said = "", "no news"
        while True:
            with others_turn():
                time.sleep(min(LAST_POLL, max(FIRST_POLL, (time.monotonic() - began) / 10)))
            try:
                text = get(f"/response/{job}", patient=True).text
            except _NoAnswerYet:
                text = ""
            if text and text != news:
                response, news, heard = ResponseModel.model_validate_json(text), text, time.monotonic()
                if response.status == Status.COMPLETED:
                    return self._fetch(response.data)
                if response.status == Status.ERROR:
                    self._raise(response.description)
                said = without_key(response.description).strip() or response.status.value.lower()
            _tell(began, f"waiting for the server: {said}")
            if time.monotonic() - heard > patience():
                raise _Lost(f"there was no news of it for {patience():.0f} s (NDIF_PATIENCE)")

    def _fetch(self, address: str) -> dict:
        try:
            content = get(address, patient=True).content
        except _NoAnswerYet as error:
            raise _Lost("its result has expired") from error
        # Only tensors and plain Python: what a server sends back is never run.
        plain = zstandard.ZstdDecompressor().decompressobj().decompress(content)
        return torch.load(io.BytesIO(plain), map_location="cpu", weights_only=True)

    def _raise(self, description: str) -> None:
        said = without_key(description).strip()
        last = said.splitlines()[-1] if said else "no reason given"
        if any(fault in said for fault in _PASSING_FAULTS):
            raise _Lost(f"the server said {last!r}")
        if "Could not deploy" in said:
            raise RequestRefused(f"The server does not run this model: {last}")
        if "execution timeout" in said:
            raise JobFailed(
                f"The server says: {last.rstrip('.')}: ask for fewer positions, kinds or layers at a time, or ask its "
                "operator for a longer limit."
            )
        raise JobFailed(f"The server says: {last}") from _Traceback(said)


class _Lost(Exception):
    """A job that is worth submitting again; the message ends a sentence."""


class _NoAnswerYet(Exception):
    """Nothing at this address (404): a job's first news has not arrived, or it is unknown."""


class _Traceback(Exception):
    """The server's traceback, as the cause of a JobFailed."""


def _waiting_out(send: Callable[[], httpx.Response], longest: float) -> httpx.Response:
    """The answer to a request that is sent again, less and less often, while there is none, for at most so long."""
    began, attempt = time.monotonic(), 0
    while True:
        try:
            return send()
        except ServerUnreachable:
            attempt += 1
            if time.monotonic() - began > longest:
                raise
            TRAFFIC.repeated += 1
            _tell(began, f"the server {shown(host())} does not answer; trying again for up to {longest:.0f} s")
            _pause(attempt)


def _tell(began: float, text: str) -> None:
    """Print what is waited for, if that has taken a while, and nothing was said for a while."""
    now = time.monotonic()
    if now - max(began, _told[0]) > _TELL_AFTER:
        _told[0] = now
        print(text, flush=True)


def _pause(attempt: int) -> None:
    """Back off before the n-th repetition; spread, so that many clients of one server do not come back together."""
    with others_turn():
        time.sleep(min(60.0, BACK_OFF * 2 ** (attempt - 1)) * random.uniform(0.5, 1.5))


def _send(method: str, path: str, **content) -> httpx.Response:
    """One HTTP request. Raises ServerUnreachable where a later one may fare better, RequestRefused where not."""
    address, headers = path, None
    if path.startswith("/"):
        address = host() + path
        headers = {"nnsight-version": nnsight_version, "python-version": sys.version}
        if api_key():
            headers["ndif-api-key"] = api_key()
    where = f"The server {shown(address)}"
    if not _client:
        _client.append(httpx.Client(timeout=_LIMITS))
    try:
        with others_turn():
            response = _client[0].request(method, address, headers=headers, **content)
    except (httpx.TransportError, httpx.InvalidURL, OSError) as error:
        why = without_key(str(error)) or type(error).__name__
        raise ServerUnreachable(f"{where} does not answer ({why}): check NDIF_HOST, and that it is running.") from None
    TRAFFIC.bytes_up += int(response.request.headers.get("content-length", 0))
    TRAFFIC.bytes_down += len(response.content)
    if response.is_success:
        return response
    if response.status_code == 404 and method == "GET":
        raise _NoAnswerYet
    said = _detail(response)
    if response.status_code in _PASSING_CODES:
        raise ServerUnreachable(f"{where} is not ready ({response.status_code}: {said}): try again later.")
    if response.status_code in (400, 401, 403) and "key" in said.lower():
        raise RequestRefused(f"{where} does not accept the key in NDIF_API_KEY ({said}).")
    raise RequestRefused(f"{where} refuses the request ({response.status_code}: {said}).")


def _detail(response: httpx.Response) -> str:
    try:
        body = response.json()
        said = body.get("detail", body) if isinstance(body, dict) else body
    except ValueError:
        said = response.text
    return without_key(str(said)).strip()[:500].rstrip(".") or "no reason given"


def _size(n: int) -> str:
    return f"{n / 1e6:.1f} MB" if n >= 1e5 else f"{n / 1e3:.1f} kB"
