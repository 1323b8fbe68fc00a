"""Picking a question of a test bed: by part, by its constraints, by words; the next one, or any."""

from __future__ import annotations

import random

from ..testbed import Item, TestBed


class Picker:
    """A place among the questions that match."""

    def __init__(self, testbed: TestBed) -> None:
        self.testbed = testbed
        self._part = self._constraints = None
        self._text = ""
        self._selected = self.items = tuple(testbed.select())
        self.place = 0

    @property
    def item(self) -> Item | None:
        """The question picked; None where none matches."""
        return self.items[self.place] if self.items else None

    def choose(self, part: str | None, constraints: str | None, text: str) -> None:
        """Keep only the questions of a part (None: all), with "single" or "multi" constraints, that have these words.

        Words are looked for in question, entity, answers and id. The question that was picked stays if it matches.
        """
        before = self.item
        if (part, constraints) != (self._part, self._constraints):
            self._part, self._constraints = part, constraints
            self._selected = tuple(self.testbed.select(part, constraints))
        words = text.casefold().split()
        self.items = tuple(item for item in self._selected if all(word in _told(item) for word in words))
        self.place = self.items.index(before) if before in self.items else 0

    def move(self, step: int) -> None:
        """Go on by so many questions, from the last one to the first."""
        if self.items:
            self.place = (self.place + step) % len(self.items)

    def draw(self) -> None:
        """Go to any question."""
        if self.items:
            self.place = random.randrange(len(self.items))


def _told(item: Item) -> str:
    return " ".join((item.question, item.entity, *item.answers, item.id)).casefold()
