"""Run requests on an NDIF server as jobs: submit, poll over HTTP, and resubmit what is lost.

Interventions change nothing on a server, so repeating one is safe. Permanent errors are raised at once.
"""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import time
from pathlib import Path

import torch
from nnsight.schema.request import RequestModel
from nnsight.schema.response import ResponseModel, Status
from nnsight.tracing.backend import Backend
from nnsight.util import to_import_path

from ..errors import JobFailed, NothingThere, NotServed, ServerUnreachable
from ..extras import extra
from ..progress import TRAFFIC, tell
from .http import back_off, get, host, no_ndif, patience, send, shown, with_retries, without_key

with extra("remote"):
    import zstandard

SUBMISSIONS = 4  # of one job, before it fails
FIRST_POLL, LAST_POLL = 0.01, 2.0  # shortest and longest pause between polls, in seconds; else a tenth of the job's age
STANDING = 6  # a running or queued job may stay the same for so many times the patience
# Messages about a job that another actor could run, and about a cluster that is starting.
_PASSING_FAULTS = ("Error submitting request", "was evicted", "cancelled or preempted")
_NOT_READY = ("Error starting model", "Error provisioning model", "temporarily unavailable")
_keys: dict[str, str] = {}  # of models, as the Hub spells them


def model_key(lm) -> str:
    """Return the server's key of nnsight's model: its Hub id, or a directory that the server sees, too."""
    named = {"repo_id": lm.repo_id, "revision": lm.revision, "task": lm.task}
    plain = f"{to_import_path(type(lm))}:{json.dumps(named)}"
    if plain not in _keys:
        _keys[plain] = plain
        if not Path(lm.repo_id).is_dir():
            with contextlib.suppress(Exception):  # whatever the Hub's client raises where no Hub is within reach
                _keys[plain] = lm.to_model_key()
    return _keys[plain]


class Job(Backend):
    """One session as a job: `with lm.session(backend=job): …`, then `job.result()`."""

    def __init__(self, key: str) -> None:
        self.model_key, self.payload = key, b""

    def __call__(self, tracer) -> None:
        """Keep the block that nnsight captured, for `result`."""
        self.payload = RequestModel.serialize(tracer, compress=True)

    def result(self) -> dict:
        """Run the job; return the saved values on the CPU. Raises ServerUnreachable, RequestRefused or JobFailed."""
        began, attempt, lost, silent = time.monotonic(), 0, 0, 0
        while True:
            try:
                return self._wait(self._submit())
            except _NotReady as error:
                if time.monotonic() - began > patience():
                    raise ServerUnreachable(
                        f"The server {shown(host())} has not been ready for {patience():.0f} s: {error}."
                    ) from error
            except _Silent as error:
                silent += 1
                if silent == 2:
                    raise ServerUnreachable(
                        f"The server {shown(host())} takes jobs, but nothing was heard of two (the same one, sent "
                        f"again): {error}; ask its operator, or set NDIF_PATIENCE to more seconds."
                    ) from error
            except _Lost as error:
                lost += 1
                if lost == SUBMISSIONS:
                    raise JobFailed(f"The job was lost {lost} times, the last time because {error}.") from error
            attempt += 1
            TRAFFIC.repeated += 1
            time.sleep(back_off(attempt))

    def _submit(self) -> str:
        envelope = RequestModel(model_key=self.model_key, compress=True)
        job = with_retries(lambda: send(
            "POST", "/request", data={"data": envelope.metadata()},
            files={"blob": ("request", self.payload, "application/octet-stream")},
        ), patience())
        TRAFFIC.requests += 1
        return _parsed(job.text).id

    def _wait(self, job: str) -> dict:
        """Poll a job until it is done. Raises _Lost if another try may succeed."""
        began = heard = time.monotonic()
        news, said, longest = "", "no news", patience()
        while True:
            time.sleep(min(LAST_POLL, max(FIRST_POLL, (time.monotonic() - began) / 10)))
            asked = time.monotonic()
            try:
                text = get(f"/response/{job}", patient=True).text
            except NothingThere:  # yet
                text = ""
            heard += time.monotonic() - asked  # a network that was away is no silence of the server
            if text and text != news:
                response, news, heard = _parsed(text), text, time.monotonic()
                if response.status == Status.COMPLETED:
                    return self._fetch(response.data)
                if response.status == Status.ERROR:
                    self._raise(response.description)
                said = without_key(response.description).strip() or response.status.value.lower()
                if response.status != Status.RECEIVED:  # a place in a queue, or a run, may stay the same for long
                    longest = STANDING * patience()
            tell(began, f"waiting for the server: {said}")
            if time.monotonic() - heard > longest:
                raise _Silent(f"there was no news of it for {longest:.0f} s (NDIF_PATIENCE)")

    def _fetch(self, address: str) -> dict:
        try:
            content = get(address, patient=True).content
        except NothingThere as error:
            raise _Lost("its result has expired") from error
        try:
            # Only tensors and plain Python: what a server sends back is never run.
            plain = zstandard.ZstdDecompressor().decompressobj().decompress(content)
            return torch.load(io.BytesIO(plain), map_location="cpu", weights_only=True)
        except (zstandard.ZstdError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
            raise JobFailed(f"The server sent a result that cannot be read ({type(error).__name__}).") from error

    def _raise(self, description: str) -> None:
        said = without_key(description).strip()
        last = said.splitlines()[-1] if said else "no reason given"
        for error, faults in ((_NotReady, _NOT_READY), (_Lost, _PASSING_FAULTS)):
            if any(fault in description for fault in faults):
                raise error(f"the server said {last!r}")
        if "Could not deploy" in description:
            raise NotServed(f"The server does not run this model: {last}")
        if "execution timeout" in description:
            raise JobFailed(
                f"The server says: {last.rstrip('.')}: ask for fewer positions, kinds or layers at a time, or ask its "
                "operator for a longer limit."
            )
        raise JobFailed(f"The server says: {last}") from _Traceback(said)


def _parsed(text: str) -> ResponseModel:
    try:
        return ResponseModel.model_validate_json(text)
    except ValueError:
        raise ServerUnreachable(no_ndif()) from None


class _Lost(Exception):
    """A job to submit again; the message ends a sentence."""


class _Silent(_Lost):
    """A job without news."""


class _NotReady(_Lost):
    """A job that the cluster cannot take yet."""


class _Traceback(Exception):
    """The server's traceback, as the cause of a JobFailed."""
