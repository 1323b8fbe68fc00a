"""An OpenAI-compatible endpoint on loopback, over real HTTP, that answers as a test tells it."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NAMES = {
    "building": ["the Taj Mahal", "Big Ben", "the White House"],
    "country": ["Sri Lanka", "Mongolia", "North Macedonia"],
    "director": ["Agnès Varda", "Akira Kurosawa", "Billy Wilder"],
}


@dataclass(frozen=True)
class Said:
    """One answer. cut: bytes that the connection ends before; held: answered only once this is set."""

    body: str | dict = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: int = 0
    held: threading.Event | None = None


class OpenAIServer:
    """Serves POST /v1/chat/completions while it is entered. answer: (request's JSON, its number from 0) -> Said.

    requests: what came, in order; keys: their Authorization; times: when they came.
    """

    def __init__(self, answer: Callable[[dict, int], Said]) -> None:
        self.requests: list[dict] = []
        self.keys: list[str | None] = []
        self.times: list[float] = []
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                length = int(self.headers["content-length"])
                content = self.rfile.read(length)
                if len(content) < length:  # from a client that was killed meanwhile
                    return
                request = json.loads(content)
                with lock:
                    number = len(outer.requests)
                    outer.requests.append(request)
                    outer.keys.append(self.headers["authorization"])
                    outer.times.append(time.monotonic())
                said = answer(request, number) if self.path == "/v1/chat/completions" else Said("no such path", 404)
                if said.held:
                    said.held.wait(60)
                time.sleep(said.delay)
                is_json = isinstance(said.body, dict)
                content = (json.dumps(said.body) if is_json else said.body).encode()
                self.send_response(said.status)
                self.send_header("content-type", "application/json" if is_json else "text/html")
                self.send_header("content-length", str(len(content)))
                for name, value in said.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content[: len(content) - said.cut])
                self.close_connection = bool(said.cut)

            def handle(self) -> None:
                with suppress(ConnectionError):  # of a client that was killed, or waits no longer
                    super().handle()

            def log_message(self, *_) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> OpenAIServer:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._server.server_close()


def completion(text: str | dict, tokens: tuple[int, int] = (100, 20)) -> Said:
    """A chat completion."""
    text = text if isinstance(text, str) else json.dumps(text)
    message = {"role": "assistant", "content": text}
    return Said({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 0, "model": "parrot",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)},
    })


def refusal(status: int, message: str, headers: dict[str, str] | None = None, code: str | None = None) -> Said:
    """An error as OpenAI words it."""
    return Said({"error": {"message": message, "type": "error", "param": None, "code": code}}, status, headers or {})


def is_judging(request: dict) -> bool:
    return "verdicts" in request["messages"][0]["content"]


def judged(request: dict) -> list[str]:
    """The questions that are to be judged."""
    return [line.partition(". ")[2] for line in request["messages"][1]["content"].splitlines()]


def asked(request: dict) -> str:
    """The question that is to be marked."""
    questions = [m["content"] for m in request["messages"] if m["content"].startswith("Question: ")]
    return questions[-1].removeprefix("Question: ").splitlines()[0]


def marks(question: str) -> dict:
    """What a good model says of "... this building ... in 2006"."""
    constraint = re.search(r"this (building|country|director)", question, re.IGNORECASE)
    year = re.search(r"(?<=in )\d{4}", question)
    return {
        "visual_constraint": constraint[0], "text_constraint": year and year[0],
        "visual_replacements": NAMES[constraint[1]], "text_replacements": ["1994", "1987", "2011"] if year else [],
    }


def good(request: dict, number: int = 0) -> Said:
    """What a good model says to either kind of request."""
    if is_judging(request):
        # A text replacement stands beside the visual constraint.
        verdicts = [{"needs_image": "this " in q.lower(), "makes_sense": True} for q in judged(request)]
        return completion({"verdicts": verdicts}, (60, 30))
    return completion(marks(asked(request)))
