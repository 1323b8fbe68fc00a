"""One person's round through a test bed: what is shown of an item, and what becomes of a key.

All of it is here, and none in the browser: `VerifyWidget` draws `Verification.state()` and passes keys to `press`.
What a person marks or writes is a draft until it is accepted or rejected; only then it is in the log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ...errors import TestBedError
from ...text import normalize, quoted
from ..phrases import needs_image
from ..schema import Item, TestBed
from .decisions import Decision, DecisionLog
from .marking import ShownPhrases, mark, pieces, replaced
from .outcomes import as_decided, disagree

ONLY = ("all", "undecided", "disputed")
DONE = {"accept": "Accepted", "correct": "Corrected", "reject": "Rejected"}
_FIELDS = ("visual_replacement", "text_replacement", "comment")


class Verification:
    """The items that one person goes through, and the log into which the decisions go.

    only: "all" items, those "undecided" by this person, or those "disputed" (and then what others decided is shown,
    and the decisions do not count as blind). Raises `TestBedError` for another value or an empty name.
    """

    def __init__(self, testbed: TestBed, log: DecisionLog, annotator: str, *, only: str = "all") -> None:
        if only not in ONLY:
            raise TestBedError(f"only cannot be {quoted(only)}: use {', '.join(map(repr, ONLY))}.")
        if not annotator.strip():
            raise TestBedError("annotator must be a name: decisions are told apart by it.")
        self.log, self.annotator, self.blind = log, annotator.strip(), only != "disputed"
        log.refresh()
        standing = log.standing()
        wanted = {
            "all": lambda item: True,
            "undecided": lambda item: not self._is_done(item, standing),
            "disputed": lambda item: len(valid := _valid(item, standing)) > 1 and disagree(valid.values()),
        }[only]
        self.items = tuple(filter(wanted, testbed))
        self.position = 0
        self.message = ("", "")  # its kind: "problem", "warning", "done"; one sentence
        self._drafts: dict[str, ShownPhrases] = {}
        self._warned: tuple | None = None  # what will be done if it is asked for once more
        if self.items and self._is_done(self.items[0], standing):
            self._advance()

    @property
    def item(self) -> Item:
        """The item shown. There is none where nothing is left to decide: `items` is empty then."""
        return self.items[self.position]

    def press(
        self, action: str, item: str, *, selection: Sequence[int] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> None:
        """Do what a key asks for; `message` says what came of it.

        action: accept, reject, visual, text, clear, undo, back, next, or edit (nothing but the fields). item: the id of
        the item that was on the screen; if another is shown by now, nothing is done. selection: the first and the last
        selected of `state()["pieces"]`. fields: what stands in the text fields.
        """
        actions = {
            "accept": self._accept, "reject": self._reject, "undo": self._undo, "clear": self._clear,
            "visual": lambda: self._mark("visual", selection), "text": lambda: self._mark("text", selection),
            "back": lambda: self._move(-1), "next": lambda: self._move(1), "edit": lambda: None,
        }
        if not self.items or item != self.item.id or action not in actions:
            return
        self.message = ("", "")
        try:
            self.log.refresh()
            self._draft = replace(self._draft, **{k: normalize(fields[k]) for k in _FIELDS if k in (fields or {})})
            actions[action]()
        except TestBedError as error:
            self.message = ("problem", str(error))

    def state(self) -> dict:
        """What is to be drawn, as JSON has it.

        pieces: the question as [text, role], words and what is between them; role is "visual", "text" or "". replaced:
        by role, the question with that constraint replaced, likewise in pieces. The other fields are named as they are
        labelled on the screen.
        """
        standing, (kind, text) = self.log.standing(), self.message
        state = {
            "annotator": self.annotator, "total": len(self.items), "position": self.position + 1,
            "done": sum(self._is_done(item, standing) for item in self.items), "others": self._others(standing),
            "message": {"kind": kind, "text": text}, "item": None,
        }
        if not self.items:
            return state
        item, draft, valid = self.item, self._draft, _valid(self.item, standing)
        own = valid.get(self.annotator)
        return state | vars(draft) | {
            "item": item.id, "part": item.part, "entity": item.entity, "answers": list(item.answers),
            "pieces": pieces(item.question, draft), "replaced": replaced(item.question, draft),
            "changed": draft != self._stored(), "corrects": bool(self._corrections()),
            "decision": _told(own) if own else _STALE if self.annotator in standing.get(item.id, {}) else "",
            "decisions": [] if self.blind else [_told(d) for name, d in valid.items() if name != self.annotator],
        }

    # What keys do

    def _mark(self, role: str, selection: Sequence[int] | None) -> None:
        marks, doubt = mark(self.item.question, self._draft, role, selection)
        phrase = getattr(marks, f"{role}_constraint")
        sentence = f"“{phrase}” may be no whole noun phrase ({doubt})"
        if doubt and self._warns((self.item.id, role, phrase), sentence, role[0]):
            return
        self._draft = marks

    def _clear(self) -> None:
        if not self._draft.text_constraint:
            raise TestBedError("There is no text constraint to clear.")
        self._draft = replace(self._draft, text_constraint="", text_replacement="")

    def _accept(self) -> None:
        draft, written = self._draft, self._corrections()
        for role in ("visual", "text"):
            constraint, replacement = getattr(draft, f"{role}_constraint"), getattr(draft, f"{role}_replacement")
            if constraint and constraint.casefold() == replacement.casefold():
                raise TestBedError(f"The {role} constraint's replacement is the constraint itself: write another.")
        sentence = "The visual constraint's replacement seems to need the image, too"
        if needs_image(written.get("visual_replacement", "")) and self._warns((self.item.id, draft), sentence, "a"):
            return
        self._decide("correct" if written else "accept", written)

    def _reject(self) -> None:
        self._decide("reject", {})

    def _undo(self) -> None:
        if self._drafts.pop(self.item.id, None):
            self.message = ("done", "What was changed here and not accepted is dropped.")
            return
        places = {item.id: place for place, item in enumerate(self.items)}
        mine = [name for name in self.log.decided(self.annotator) if name in places]
        if not mine:
            raise TestBedError("There is nothing to undo.")
        self.position = places[mine[-1]]
        marks = self._stored()
        self.log.undo(self.annotator, mine[-1])
        self._draft = marks  # as it was before the key: what was marked is not lost
        self.message = ("done", f"The decision on question {self.position + 1} is undone.")

    def _move(self, step: int) -> None:
        if not 0 <= self.position + step < len(self.items):
            raise TestBedError(f"This is the {'first' if step < 0 else 'last'} question.")
        self.position += step

    def _decide(self, action: str, written: dict[str, str]) -> None:
        item, draft, place = self.item, self._draft, self.position + 1
        item = item.with_constraints(draft.visual_constraint, draft.text_constraint or None)
        replacements = {name: written.get(name) for name in ("visual_replacement", "text_replacement")}
        self.log.decide(item, self.annotator, action, comment=draft.comment, blind=self.blind, **replacements)
        self._drafts.pop(item.id, None)
        left = self._advance()
        self.message = ("done", f"{DONE[action]} question {place}." + ("" if left else " All are decided."))

    # Where things stand

    @property
    def _draft(self) -> ShownPhrases:
        return self._drafts.get(self.item.id) or self._stored()

    @_draft.setter
    def _draft(self, draft: ShownPhrases) -> None:
        if draft == self._stored():
            self._drafts.pop(self.item.id, None)
        else:
            self._drafts[self.item.id] = draft

    def _stored(self) -> ShownPhrases:
        """The item as the person decided, or as it is."""
        own = _valid(self.item, self.log.standing()).get(self.annotator)
        return ShownPhrases.of(as_decided(self.item, [own]), own.comment) if own else ShownPhrases.of(self.item)

    def _corrections(self) -> dict[str, str]:
        """The phrases of the draft that are not the item's."""
        before, now = vars(ShownPhrases.of(self.item)), vars(self._draft)
        return {name: now[name] for name in before if name != "comment" and now[name] != before[name]}

    def _is_done(self, item: Item, standing: dict) -> bool:
        """Decided by this person; among disputed items: since the others' decisions were seen."""
        own = _valid(item, standing).get(self.annotator)
        return own is not None and (self.blind or not own.blind)

    def _others(self, standing: dict) -> dict[str, int]:
        """By name, how many of these items each of the others decided."""
        names = Counter(name for item in self.items for name in _valid(item, standing))
        return {name: n for name, n in sorted(names.items()) if name != self.annotator}

    def _advance(self) -> int:
        """Go to the next item that is to be decided, from the end to the beginning; returns how many there are."""
        standing = self.log.standing()
        left = [place for place, item in enumerate(self.items) if not self._is_done(item, standing)]
        if left:
            self.position = next((place for place in left if place > self.position), left[0])
        return len(left)

    def _warns(self, asked: tuple, sentence: str, key: str) -> bool:
        """Warn the first time that something is asked for; False, the second time."""
        if self._warned == asked:
            self._warned = None
            return False
        self._warned, self.message = asked, ("warning", f"{sentence}. Press {key} again if it is right.")
        return True


_STALE = "Your decision on it was made on another wording of the question and no longer counts."


def _valid(item: Item, standing: Mapping[str, Mapping[str, Decision]]) -> dict[str, Decision]:
    return {name: decision for name, decision in standing.get(item.id, {}).items() if decision.is_on(item)}


def _told(decision: Decision) -> str:
    phrases = [f"“{phrase}”" for phrase in (decision.visual_constraint, decision.text_constraint) if phrase]
    written = (decision.visual_replacement, decision.text_replacement)
    phrases += [f"replaced by “{phrase}”" for phrase in written if phrase]
    comment = f" ({decision.comment})" if decision.comment else ""
    return f"{DONE[decision.action]} by {decision.annotator}: {', '.join(phrases) or 'nothing marked'}{comment}"
