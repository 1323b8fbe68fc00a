"""Replies of an LLM that are kept as they come in, so that a run that was killed pays for nothing twice."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from ...errors import TestBedError
from ...files import append_lines
from ...text import first_line
from .llm import Endpoint, Reply


class NotKept(Exception):
    """A reply that would have to be asked for."""


class Replies:
    """Replies of one model, kept in a JSONL file: one line each, on the disk before it is used.

    A line that is not whole (the process was killed while it wrote, the disk was full) counts as not there.
    Raises TestBedError for a file that cannot be read.
    """

    def __init__(self, path: Path, model: str) -> None:
        self.path, self.model = path, model
        try:
            content = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise TestBedError(f"{path} cannot be read ({first_line(error)}).") from error
        self._kept = dict(filter(None, map(_kept, content.splitlines())))

    def ask(
        self, part: str, question: str, messages: list[dict], schema: dict, endpoint: Endpoint | None = None
    ) -> Reply:
        """The reply to a chat about a question of a part: the one that is kept, or else the endpoint's, which then is.

        Raises NotKept without an endpoint, TestBedError where it cannot be written, and what `Endpoint.ask` raises.
        """
        asked = json.dumps([self.model, part, messages, schema], sort_keys=True)
        key = hashlib.sha256(asked.encode()).hexdigest()
        if key in self._kept:
            return self._kept[key]
        if endpoint is None:
            raise NotKept
        reply = endpoint.ask(messages, schema)
        told = {"model": self.model, "part": part, "question": question}
        append_lines(self.path, [{"key": key, **told, **asdict(reply)}])
        self._kept[key] = reply
        return reply

    @property
    def tokens(self) -> tuple[int, int]:
        """Tokens in and out of everything that is kept, of earlier runs, too."""
        kept = list(self._kept.values())
        return sum(reply.tokens_in for reply in kept), sum(reply.tokens_out for reply in kept)


def _kept(line: bytes) -> tuple[str, Reply] | None:
    try:
        row = json.loads(line)
        return str(row["key"]), Reply(str(row["text"]), int(row["tokens_in"]), int(row["tokens_out"]))
    except (ValueError, LookupError, TypeError):
        return None
