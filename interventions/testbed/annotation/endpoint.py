"""A language model behind an OpenAI-compatible endpoint, and its replies, kept so that no question is paid for twice.

The `openai` package reads the base URL and the key from the environment alone (OPENAI_BASE_URL, OPENAI_API_KEY) and
repeats requests after passing faults. The key goes to that endpoint and is removed from everything that comes back.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ...errors import TestBedError
from ...files import append_lines
from ...text import first_line

MAX_RETRIES = 7  # of a request after 408, 409, 429, 5xx and broken connections: 30 seconds without Retry-After
READ_RETRIES = 3  # of a request whose answer is no completion, which `openai` does not repeat
READ_PAUSE = 1.0  # seconds before the first of these, then twice and three times as long
_REMEDIES = {
    401: "check OPENAI_API_KEY", 402: "it asks for payment", 403: "check what OPENAI_API_KEY is allowed",
    404: "check OPENAI_BASE_URL and the model's name",
}


class EndpointError(TestBedError):
    """The endpoint takes no requests. The message is a sentence without its full stop, and never holds the key."""


class QuestionFailed(Exception):
    """This request failed; another one may not. The message is the reason."""


class NotKept(Exception):
    """A reply that would need a request."""


@dataclass(frozen=True)
class Reply:
    """The text of a reply, and the tokens that it took (0 if the endpoint does not say)."""

    text: str
    tokens_in: int = 0
    tokens_out: int = 0


class Endpoint:
    """The endpoint of the environment, for one model. Safe to use from several threads.

    Attributes:
        where: the address without its path.
        requests, repeated: HTTP requests so far, and how many of them repeated one after a fault.
        tokens: the tokens (in, out) so far.
    """

    def __init__(self, model: str, *, timeout: float = 60.0) -> None:
        try:
            import openai  # only annotating needs it
        except ImportError as error:
            raise EndpointError("The package openai is not installed: pip install '.[annotate]'") from error
        self._openai, self._key, self.model = openai, _key(), model
        self._client = openai.OpenAI(
            api_key=self._key, timeout=timeout, max_retries=MAX_RETRIES,
            http_client=openai.DefaultHttpxClient(event_hooks={"request": [self._count]}),
        )
        self.where = _shown(str(self._client.base_url))
        self._refused: set[str] = set()
        self._stopped, self._lock = threading.Event(), threading.Lock()
        self.requests, self.repeated, self.tokens = 0, 0, (0, 0)

    def ask(self, messages: list[dict], schema: dict) -> Reply:
        """Return the reply to a chat."""
        for attempt in range(READ_RETRIES + 1):
            if self._stopped.is_set():
                raise QuestionFailed("the run has ended")
            body = self._request(messages, schema)
            try:
                return self._read(body)
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
                if attempt < READ_RETRIES:
                    self._stopped.wait(READ_PAUSE * (attempt + 1))
                    with self._lock:
                        self.repeated += 1
        start = " ".join(self._without_key(body).split())[:80]
        raise QuestionFailed(f"the endpoint's answer is no completion, but begins {start!r}")

    def stop(self) -> None:
        """Send no further chat."""
        self._stopped.set()

    def _count(self, request) -> None:
        with self._lock:
            self.requests += 1
            self.repeated += request.headers.get("x-stainless-retry-count", "0") != "0"

    def _request(self, messages: list, schema: dict) -> str:
        """The body of the endpoint's answer."""
        json_schema = {"name": "annotation", "strict": True, "schema": schema}
        wished = {"temperature": 0, "response_format": {"type": "json_schema", "json_schema": json_schema}}
        sent = {name: value for name, value in wished.items() if name not in self._refused}
        try:
            # Raw, since the package fails on an answer that is no completion.
            answer = self._client.chat.completions.with_raw_response.create(model=self.model, messages=messages, **sent)
        except self._openai.APIStatusError as error:
            body = error.body if isinstance(error.body, dict) else {}
            told = " ".join(self._without_key(str(body.get("message") or error.body or "no reason given")).split())
            reason = f"{error.status_code}: {told[:300]}"
            refused = [name for name in sent if name in reason] if error.status_code in (400, 422) else []
            if not refused:
                raise self._failure(error, reason) from None
            self._refused.update(refused)
            return self._request(messages, schema)
        except self._openai.APIConnectionError as error:  # includes time-outs
            cause = f" ({first_line(error.__cause__)})" if error.__cause__ else ""
            raise QuestionFailed(self._without_key(first_line(error) + cause)) from None
        return answer.http_response.text

    def _failure(self, error, reason: str) -> Exception:
        """The error of an HTTP status: one that ends the run, or one of this question."""
        remedy = _REMEDIES.get(error.status_code, "")
        if error.code == "insufficient_quota":
            remedy = remedy or "its quota is used up"
        if not remedy:
            return QuestionFailed(reason)
        return EndpointError(f"The endpoint {self.where} takes no requests for {self.model!r} ({reason}): {remedy}")

    def _read(self, body: str) -> Reply:
        content = json.loads(body)
        message, usage = content["choices"][0]["message"], content.get("usage") or {}
        text = str(message.get("content") or message.get("refusal") or "").encode("utf-8", "replace").decode()
        reply = Reply(
            self._without_key(text), *(int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens"))
        )
        with self._lock:
            self.tokens = self.tokens[0] + reply.tokens_in, self.tokens[1] + reply.tokens_out
        return reply

    def _without_key(self, text: str) -> str:
        # A shorter key is no secret, but what people set for an endpoint that needs none.
        return text.replace(self._key, "[key]") if len(self._key) > 7 else text


class Replies:
    """The replies of one model in a JSONL file: one line each, on the disk before it is used.

    A line that is not whole (the process was killed, the disk was full) counts as missing.
    """

    def __init__(self, path: Path, model: str) -> None:
        self.path, self.model = path, model
        try:
            content = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise TestBedError(f"{path} cannot be read ({first_line(error)}).") from error
        self._kept = dict(filter(None, map(_parsed, content.splitlines())))

    def ask(
        self, part: str, question: str, messages: list[dict], schema: dict, endpoint: Endpoint | None = None
    ) -> Reply:
        """Return the kept reply to a chat about a question of a part, or the endpoint's, which is then kept."""
        asked = json.dumps([self.model, part, messages, schema], sort_keys=True)
        key = hashlib.sha256(asked.encode()).hexdigest()
        if key not in self._kept:
            if endpoint is None:
                raise NotKept
            reply = endpoint.ask(messages, schema)
            about = {"model": self.model, "part": part, "question": question}
            append_lines(self.path, [{"key": key, **about, **asdict(reply)}])
            self._kept[key] = reply
        return self._kept[key]

    @property
    def tokens(self) -> tuple[int, int]:
        """The tokens (in, out) of all kept replies, also those of earlier runs."""
        kept = list(self._kept.values())
        return sum(reply.tokens_in for reply in kept), sum(reply.tokens_out for reply in kept)


def _parsed(line: bytes) -> tuple[str, Reply] | None:
    try:
        row = json.loads(line)
        return str(row["key"]), Reply(str(row["text"]), int(row["tokens_in"]), int(row["tokens_out"]))
    except (ValueError, LookupError, TypeError):
        return None


def _key() -> str:
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not key:
        raise EndpointError(
            "OPENAI_API_KEY is not set: export the key of your endpoint (any word for one that needs none)"
        )
    if not key.isascii() or not key.isprintable():  # no header could carry it, and errors would show it
        raise EndpointError("OPENAI_API_KEY holds a character that no key has: copy it again")
    return key


def _shown(address: str) -> str:
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
        raise EndpointError("OPENAI_BASE_URL must be an address such as https://api.openai.com/v1, without a password")
    return f"{parts.scheme}://{parts.netloc}"
