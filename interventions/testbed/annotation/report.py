"""What an annotation run did with every item of a test bed, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...text import count_reasons
from .choice import Annotated

STATES = ("as it was", "annotated", "failed", "not asked")


@dataclass(frozen=True)
class Report:
    """What a run did: its items, questions, requests, tokens and dollars. As a text, a table.

    questions: distinct ones that were to be asked; from_file: those of them that needed no request. retries: replies
    that broke a rule and were asked for again; repeated: requests that were sent again after a fault. tokens: (in, out)
    of this run's requests; tokens_kept: of all replies in the file. prices: dollars per million tokens in and out.
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
        """What this run's requests cost."""
        return dollars(self.tokens, self.prices)

    def count(self, state: str) -> int:
        """Items of a state; over all states they are the test bed's."""
        return sum(entry.state == state for entry in self.items)

    def reasons(self, state: str) -> dict[str, int]:
        """The kinds of reasons of a state's items, the most frequent first."""
        return dict(count_reasons(entry.reason for entry in self.items if entry.state == state).most_common())

    def counts(self) -> dict[str, int | float]:
        """Everything that is counted, by what it is called in the table."""
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
            lines += ["", "Replies that failed are kept, too: delete annotations.jsonl to have all asked anew."]
        return "\n".join(lines)


def dollars(tokens: tuple[int, int], prices: tuple[float, float] | None) -> float | None:
    """The cost of tokens in and out; None where no prices are known."""
    return None if prices is None else sum(n * price for n, price in zip(tokens, prices, strict=True)) / 1e6
