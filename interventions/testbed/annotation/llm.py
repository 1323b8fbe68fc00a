"""An LLM behind an OpenAI-compatible endpoint, asked patiently.

Base URL and key come from the environment alone, as the `openai` package reads them (OPENAI_BASE_URL, OPENAI_API_KEY).
The key goes to that endpoint and is taken out of whatever comes back.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import threading
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from ...errors import TestBedError
from ...progress import tell
from ...text import first_line

BACK_OFF = 1.0  # seconds before the first repetition; doubled each time, and spread by half
TRIES = 5  # of a request that meets a passing fault
PATIENCE = 600.0  # seconds after which a request is given up in any case: until then, a limit of the rate is waited out
_PASSING_CODES = (408, 409, 425, 429)  # and all from 500 on
_FINAL_CODES = {
    401: "check OPENAI_API_KEY", 402: "it asks for payment", 403: "check what OPENAI_API_KEY is allowed",
    404: "check OPENAI_BASE_URL and the model's name",
}
_SPREAD = random.Random()  # of its own: pauses must not move what an experiment draws


class EndpointError(TestBedError):
    """The endpoint takes no requests; the message is one sentence without its full stop, and never holds the key."""


class QuestionFailed(Exception):
    """This request failed, another one may fare better; the message is the reason."""


class _Stopped(Exception):
    """Nobody waits for this reply any more."""


class _Passing(Exception):
    """A fault that may pass. busy: there are only too many requests; wait: seconds that the endpoint asks for."""

    def __init__(self, reason: str, *, busy: bool = False, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.busy, self.wait = busy, wait


@dataclass(frozen=True)
class Reply:
    """What the model said, and the tokens that it took (0 where an endpoint does not tell)."""

    text: str
    tokens_in: int = 0
    tokens_out: int = 0


class Endpoint:
    """The endpoint of the environment, for one model; safe to use from several threads.

    timeout: seconds without a sign of it after which a request counts as lost.
    requests, repeated, tokens: what it sent so far, and the tokens (in, out) that this took.
    Raises EndpointError where `openai` is not installed and where the environment has no usable key or address.
    """

    def __init__(self, model: str, *, timeout: float = 60.0) -> None:
        try:
            import openai  # here: only annotating needs it
        except ImportError as error:
            raise EndpointError("The package openai is not installed: pip install '.[annotate]'") from error
        self._openai, self._key, self.model = openai, _key(), model
        self._client = openai.OpenAI(api_key=self._key, timeout=timeout, max_retries=0)
        self.where = _shown(str(self._client.base_url))
        self._refused: set[str] = set()
        self._stopped, self._lock = threading.Event(), threading.Lock()
        self.requests, self.repeated, self.tokens = 0, 0, (0, 0)

    def ask(self, messages: list[dict], schema: dict) -> Reply:
        """The reply to a chat. schema: JSON schema of the reply, which an endpoint may not heed.

        Passing faults (429, 5xx, time-outs, connections that break, answers that are no completion) are waited out,
        less and less often and at least as long as Retry-After says. Raises QuestionFailed, EndpointError.
        """
        began = time.monotonic()
        for attempt in itertools.count(1):
            if self._stopped.is_set():
                raise _Stopped
            try:
                return self._once(messages, schema)
            except _Passing as fault:
                pause = max(fault.wait, min(60.0, BACK_OFF * 2 ** (attempt - 1)) * _SPREAD.uniform(0.5, 1.5))
                if (attempt >= TRIES and not fault.busy) or time.monotonic() - began + pause > PATIENCE:
                    raise QuestionFailed(str(fault)) from None
                tell(began, f"the endpoint {self.where} keeps a question waiting ({fault}); trying again")
                self._stopped.wait(pause)
                with self._lock:
                    self.repeated += 1

    def stop(self) -> None:
        """Let no further request be sent."""
        self._stopped.set()

    def _once(self, messages: list[dict], schema: dict) -> Reply:
        wished = {
            "temperature": 0,
            "response_format": {
                "type": "json_schema", "json_schema": {"name": "annotation", "strict": True, "schema": schema},
            },
        }
        sent = {name: value for name, value in wished.items() if name not in self._refused}
        with self._lock:
            self.requests += 1
        try:
            # Raw: what is no completion is then seen here, instead of half-way through the package.
            answer = self._client.chat.completions.with_raw_response.create(model=self.model, messages=messages, **sent)
        except self._openai.APIStatusError as error:
            said = self._said(error)
            refused = [name for name in sent if name in said] if error.status_code in (400, 422) else []
            if not refused:
                raise self._fault(error, said) from None
            self._refused.update(refused)
            return self._once(messages, schema)
        except self._openai.APIConnectionError as error:  # time-outs, too
            cause = f" ({first_line(error.__cause__)})" if error.__cause__ else ""
            raise _Passing(self._without_key(first_line(error) + cause)) from None
        text = answer.http_response.text
        try:
            body = json.loads(text)
            message, usage = body["choices"][0]["message"], body.get("usage") or {}
            said = str(message.get("content") or message.get("refusal") or "").encode("utf-8", "replace").decode()
            tokens = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
            reply = Reply(self._without_key(said), *tokens)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            start = " ".join(self._without_key(text).split())[:80]
            raise _Passing(f"the endpoint's answer is no completion, but begins {start!r}") from None
        with self._lock:
            self.tokens = self.tokens[0] + reply.tokens_in, self.tokens[1] + reply.tokens_out
        return reply

    def _said(self, error) -> str:
        """An error's status and message in one line."""
        body = error.body if isinstance(error.body, dict) else {}
        told = " ".join(self._without_key(str(body.get("message") or error.body or "no reason given")).split())
        return f"{error.status_code}: {told[:300]}"

    def _fault(self, error, said: str) -> Exception:
        """What a status means for the run, for the question, or for this attempt."""
        status = error.status_code
        remedy = _FINAL_CODES.get(status) or ("its quota is used up" if error.code == "insufficient_quota" else "")
        if remedy:
            return EndpointError(f"The endpoint {self.where} takes no requests for {self.model!r} ({said}): {remedy}")
        if status in _PASSING_CODES or status >= 500:
            return _Passing(said, busy=status == 429, wait=_retry_after(error.response.headers.get("retry-after", "")))
        return QuestionFailed(said)

    def _without_key(self, text: str) -> str:
        # What is shorter than a word is no secret, but what one gives an endpoint that asks for none.
        return text.replace(self._key, "[key]") if len(self._key) > 7 else text


def _key() -> str:
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not key:
        raise EndpointError(
            "OPENAI_API_KEY is not set: export the key of your endpoint (any word for one that asks for none)"
        )
    if not key.isascii() or not key.isprintable():  # no header could carry it, and errors would show it
        raise EndpointError("OPENAI_API_KEY holds a character that no key has: copy it again")
    return key


def _shown(address: str) -> str:
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
        raise EndpointError("OPENAI_BASE_URL must be an address such as https://api.openai.com/v1, without a password")
    return f"{parts.scheme}://{parts.netloc}"


def _retry_after(told: str) -> float:
    """Seconds of a Retry-After header, which gives a number or a date; 0 for anything else."""
    try:
        return max(0.0, float(told))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(told).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0
