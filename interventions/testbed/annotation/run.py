"""Annotate a test bed with an LLM: mark the constraints and propose phrases that may replace them.

In the paper, GPT-4 annotated most of VQA-Constraints after 100 examples a set, and people corrected it (appendix B).
Here any OpenAI-compatible endpoint does the first half, and `verification` is for the people.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...errors import TestBedError
from ...progress import Progress
from ...text import normalize, quoted
from ..provenance import must_be_writable, rewrite
from ..schema import Item, TestBed
from .chat import Outcome, ask_about
from .choice import Annotated, annotated, token_counter
from .endpoint import Endpoint, EndpointError, NotKept, Replies
from .prompt import STARTER_EXAMPLES, Marks, Question, examples_of, read_examples
from .report import Report, dollars

REPLIES = "annotations.jsonl"  # beside the table
FAILED_IN_A_ROW = 10  # questions after which the run ends
WHICH: dict[str, Callable[[Item], bool]] = {
    "unmarked": lambda item: not item.visual_constraint,
    "incomplete": lambda item: not item.visual_replacement or bool(item.text_constraint and not item.text_replacement),
    "all": lambda item: True,
}


@dataclass(frozen=True)
class Requests:
    """How the endpoint is asked.

    Attributes:
        concurrency: requests in flight.
        retries: how often to ask again after a reply that breaks a rule.
        timeout: seconds to wait for a reply.
        price_in, price_out: dollars per million tokens, to report the cost.
    """

    concurrency: int = 4
    retries: int = 2
    timeout: float = 60.0
    price_in: float | None = None
    price_out: float | None = None

    def prices(self) -> tuple[float, float] | None:
        """Return the prices, or None without any; raise TestBedError if a value is out of range."""
        _must_be_whole("concurrency", self.concurrency, 1)
        _must_be_whole("retries", self.retries, 0)
        if not self.timeout > 0:
            raise TestBedError(f"timeout must be a number of seconds above 0, not {quoted(self.timeout)}.")
        prices = self.price_in, self.price_out
        if prices == (None, None):
            return None
        if None in prices or not all(price >= 0 for price in prices):
            raise TestBedError(
                "price_in and price_out must both be dollars per million tokens, not {!r} and {!r}.".format(*prices)
            )
        return prices  # pyright: ignore[reportReturnType]


def annotate(
    testbed: TestBed, model: str, *, which: str = "unmarked", limit: int = 0, examples: str | Path = STARTER_EXAMPLES,
    tokenizer=None, requests: Requests = Requests(),
) -> Report:
    """Mark constraints, choose replacements, and write the test bed once, at the end.

    Every reply is kept in `annotations.jsonl` in the test bed's folder, so no question is asked twice. After an error
    of the endpoint or an interrupt, the results so far are written first.

    Args:
        testbed: the items. Those that share part and question share one request.
        model: its name at the endpoint. Base URL and key come from the environment, see `endpoint`.
        which: items to annotate: "unmarked"; "incomplete" (also those without a replacement; what they have stays); or
            "all" (marked again; an item without usable marks stays as it is).
        limit: the largest number of questions (0: all).
        examples: a file of in-context examples, see `prompt.read_examples`.
        tokenizer: of the model to study, see `token_counter`. Replacements with as many tokens as their constraints
            are then preferred.
        requests: how the endpoint is asked, and its prices.

    Raises:
        TestBedError: the endpoint takes no requests or fails on ten questions in a row, or an argument is out of
            range.
    """
    must_be_writable(testbed)
    if which not in WHICH:
        raise TestBedError(f"which cannot be {quoted(which)}: use {', '.join(map(repr, WHICH))}.")
    _must_be_whole("limit", limit, 0)
    prices, retries = requests.prices(), requests.retries
    shown, n_tokens = read_examples(examples), token_counter(tokenizer)
    asked = {item.id: _question(item, which) for item in testbed if WHICH[which](item)}
    questions = list(dict.fromkeys(asked.values()))[: limit or None]
    replies = Replies(testbed.directory / REPLIES, model)

    def ask(question: Question, endpoint: Endpoint | None = None) -> Outcome:
        chat = partial(replies.ask, question.part, question.text, endpoint=endpoint)
        return ask_about(question, chat, examples_of(shown, question.part), retries)

    outcomes = _known(ask, questions)
    open_questions = [question for question in questions if question not in outcomes]
    from_file, endpoint, ended = len(outcomes), None, None
    try:
        if open_questions:
            endpoint = Endpoint(model, timeout=requests.timeout)
            found = _as_completed(partial(ask, endpoint=endpoint), open_questions, requests.concurrency)
            _collect(found, outcomes, len(open_questions), endpoint, prices)
    except (KeyboardInterrupt, TestBedError) as error:
        ended = error
    entries = tuple(_entry(item, asked.get(item.id), outcomes, n_tokens, which) for item in testbed)
    report = Report(
        entries, questions=len(questions), from_file=from_file, retries=sum(o.retries for o in outcomes.values()),
        requests=endpoint.requests if endpoint else 0, repeated=endpoint.repeated if endpoint else 0,
        tokens=endpoint.tokens if endpoint else (0, 0), tokens_kept=replies.tokens, prices=prices,
    )
    if outcomes:
        settings = {"model": model, "which": which, "retries": retries}
        settings |= {"tokenizer": Path(tokenizer).name} if isinstance(tokenizer, str | Path) else {}
        items = [entry.item for entry in entries]
        rewrite(testbed, items, "annotate", settings=settings, inputs=[examples], counts=report.counts())
    if ended is None:
        return report
    kept = f"{len(outcomes)} of {len(questions)} questions are done and kept: start again to go on."
    if isinstance(ended, KeyboardInterrupt):
        print(f"Interrupted; {kept}", flush=True)
        raise ended
    raise type(ended)(f"{str(ended).rstrip('.')}; {kept}") from None


def _must_be_whole(name: str, value: int, least: int) -> None:
    if type(value) is not int or value < least:
        raise TestBedError(f"{name} must be a whole number, at least {least}, not {quoted(value)}.")


def _question(item: Item, which: str) -> Question:
    marked = item.visual_constraint and which != "all"
    given = Marks(item.visual_constraint, item.text_constraint) if marked else None
    return Question(item.part, normalize(item.question), given)


def _known(ask: Callable[[Question], Outcome], questions: Iterable[Question]) -> dict[Question, Outcome]:
    """The outcomes that need no request."""
    outcomes = {}
    for question in questions:
        with suppress(NotKept):
            outcomes[question] = ask(question)
    return outcomes


def _as_completed(ask: Callable, questions: Sequence[Question], threads: int) -> Iterator[tuple[Question, Outcome]]:
    """Yield outcomes as they come in. The threads are daemons, so a run that stops early waits for no answer."""
    waiting, done = queue.SimpleQueue(), queue.SimpleQueue()
    for question in questions:
        waiting.put(question)

    def work() -> None:
        with suppress(queue.Empty):
            while True:
                question = waiting.get_nowait()
                try:
                    done.put((question, ask(question)))
                except Exception as error:
                    done.put((question, error))
                    return

    for _ in range(min(threads, len(questions))):
        threading.Thread(target=work, daemon=True).start()
    for _ in questions:
        question, outcome = done.get()
        if isinstance(outcome, Exception):
            raise outcome
        yield question, outcome


def _collect(found: Iterable, outcomes: dict, total: int, endpoint: Endpoint, prices) -> None:
    """Put outcomes into `outcomes` as they come in, and print the progress."""
    progress, failed, in_a_row = Progress(total, "annotate"), 0, 0
    try:
        for question, outcome in found:
            outcomes[question] = outcome
            failed += outcome.marks is None
            in_a_row = in_a_row + 1 if outcome.fault else 0
            if in_a_row == FAILED_IN_A_ROW:
                raise EndpointError(f"{in_a_row} questions in a row failed at {endpoint.where} ({outcome.reason})")
            spent, cost = dollars(endpoint.tokens, prices), ""
            if spent is not None:
                cost = f", ${spent:.3f} of about ${spent / (progress.done + 1) * total:.3f}"
            note = f"{failed} failed, {sum(endpoint.tokens):,} tokens{cost}"
            progress.step(note)
        progress.close(note)
    finally:
        endpoint.stop()  # then its threads end, too


def _entry(item: Item, question: Question | None, outcomes: dict, n_tokens, which: str) -> Annotated:
    if question is None:
        return Annotated(item, "as it was")
    outcome = outcomes.get(question)
    if outcome is None:
        return Annotated(item, "not asked")
    if outcome.marks is None:
        return Annotated(item, "failed", outcome.reason)
    try:
        return annotated(item, outcome.marks, outcome.reason, n_tokens, anew=which == "all")
    except TestBedError as error:
        return Annotated(item, "failed", f"marks do not fit: {error}")
