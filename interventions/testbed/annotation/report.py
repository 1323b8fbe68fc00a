"""The report of an annotation run: what happened to every item, and the cost."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...text import count_reasons
from .choice import Annotated

STATES = ("as it was", "annotated", "failed", "not asked")


@dataclass(frozen=True)
class Report:
    """The items, questions, requests, tokens and dollars of a run. `str(report)` is a table.

    Attributes:
        items: every item of the test bed.
        questions: the number of distinct questions to ask.
        from_file: how many of them needed no request.
        retries: how often a reply broke a rule and was asked for again.
        requests, repeated: HTTP requests, and how many of them repeated one after a fault.
        tokens: the tokens (in, out) of this run.
        tokens_kept: the tokens (in, out) of all replies in the file.
        prices: dollars per million tokens in and out.
    """

    items: tuple[Annotated, ...] = field(repr=False)
    questions: int
    from_file: int
    retries: int
    requests: int
    repeated: int
    tokens: tuple[int, int]
    tokens_kept: tuple[int, int]
    prices: tuple[float, float] | None = None

    @property
    def dollars(self) -> float | None:
        """The cost of this run's requests."""
        return dollars(self.tokens, self.prices)

    def count(self, state: str) -> int:
        """Return the number of items of a state. The states add up to the test bed."""
        return sum(entry.state == state for entry in self.items)

    def reasons(self, state: str) -> dict[str, int]:
        """Return how often each kind of reason occurs in a state, the most frequent first."""
        return dict(count_reasons(entry.reason for entry in self.items if entry.state == state).most_common())

    def counts(self) -> dict[str, int | float]:
        """Return all counts by their name in the table."""
        annotated = [entry for entry in self.items if entry.state == "annotated"]
        judged = [entry.equal_length for entry in annotated if entry.equal_length is not None]
        counts = {"items": len(self.items)} | {state: self.count(state) for state in STATES}
        counts |= {
            "with a text constraint": sum(entry.item.constraints == "multi" for entry in annotated),
            "replacement chosen": sum(not entry.reason for entry in annotated),
        }
        counts |= {"replacement of equal length": sum(judged)} if judged else {}
        counts |= {f"no replacement, {kind}": n for kind, n in self.reasons("annotated").items()}
        counts |= {f"failed, {kind}": n for kind, n in self.reasons("failed").items()}
        counts |= {
            "questions": self.questions, "questions from file": self.from_file, "replies asked for again": self.retries,
            "requests": self.requests, "requests repeated": self.repeated,
            "tokens in": self.tokens[0], "tokens out": self.tokens[1],
        }
        if self.tokens_kept != self.tokens:
            counts |= {"tokens in, with earlier runs": self.tokens_kept[0]}
            counts |= {"tokens out, with earlier runs": self.tokens_kept[1]}
        return counts | ({} if self.dollars is None else {"dollars": round(self.dollars, 4)})

    def __str__(self) -> str:
        counts = self.counts()
        width = max(map(len, counts))
        rows = [f"{name:<{width}}  {number:>12,}" for name, number in counts.items()]
        examples = {}
        for entry in self.items:
            if entry.reason:
                kind = entry.reason.partition(":")[0]
                examples.setdefault((entry.state, kind), f"{entry.item.id}: {entry.reason}")
        lines = [*rows, *(["", "The first item of each reason:"] if examples else []), *examples.values()]
        if self.count("failed"):
            lines += ["", "Failed replies are kept, too: delete annotations.jsonl to ask all questions again."]
        return "\n".join(lines)


def dollars(tokens: tuple[int, int], prices: tuple[float, float] | None) -> float | None:
    """Return the cost of tokens in and out; None without prices."""
    return None if prices is None else sum(n * price for n, price in zip(tokens, prices, strict=True)) / 1e6
