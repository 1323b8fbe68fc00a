"""Find phrases that can replace a constraint, in the test bed and among names of each kind.

A replacement of the visual constraint must be of the same kind ("Taj Mahal" for "this building") and must not lead to
the same answer. In a text constraint, a year becomes another year, a number another number, a single letter another
letter, and a word another word of its kind.

Rules keep the article, singular and plural, and a capital at the beginning. A bare "this" has no noun: it takes names
of what the question asks for ("What sport is this?"), even if that gives "What sport is tennis?". "Where is this?",
"it" and "they" are not handled, and a verb does not follow a noun that becomes singular.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ..draws import seeded_hash
from .answers import normalize_vqa_answer
from .entity_kinds import FORMS, KINDS_FILE, Kind, kinds, other_forms, text_form, visual_kind
from .schema import Item

SOURCES = {
    "entity": "what another item of the same part, relation and kind shows; of a text constraint, that of another "
              "question about the same entity",
    "constraint": "the text constraint of another question of the same part and relation",
    "kind": "a name of the kind that the constraint belongs to",
    "asked": "a name of the kind that the question asks for, in place of a bare 'this'",
    "form": "another year, number or letter",
    "replacement": "the replacement of another item with a constraint of the same kind",
    "relation": "what another item of the same part and relation shows, of any kind, if there is no other candidate",
}


class Candidate(NamedTuple):
    """A phrase as the question would have it. source: one of SOURCES."""

    phrase: str
    source: str


class Candidates:
    """The candidates for the items of a test bed. key: a hash of everything that determines them."""

    def __init__(self, testbed: Iterable[Item]) -> None:
        # Dictionaries without values instead of sets, which do not keep the order of the items.
        self._shown = defaultdict(dict)  # (part, relation, kind, or None for any) -> entities
        self._texts = defaultdict(dict)  # (part, relation, form, entity, or None for any) -> text constraints
        self._replacements = defaultdict(dict)  # kind or form -> phrases
        self._answers = defaultdict(set)  # (part, relation, entity[, text constraint]) -> answers
        contents = []
        for item in testbed:
            contents.append([str(value) for name, value in vars(item).items() if name != "image"])
            if item.visual_constraint:
                self._add(item)
        self.key = hashlib.sha256(KINDS_FILE.read_bytes() + json.dumps(contents).encode()).hexdigest()[:32]

    def of(self, item: Item, role: str, *, seed: int = 0, most: int = 32) -> list[Candidate]:
        """Return candidates for a constraint, in the order of SOURCES, shuffled by seed and item within a source.

        No candidate contains, or is part of, an answer, the entity or a constraint, and none is known to share an
        answer with the item. role: "visual" or "text".
        """
        capital = getattr(item, f"{role}_constraint")[0].isupper()
        found: dict[str, str] = {}
        for source, phrases in self._sources(item, role):
            if source == "relation" and found:
                break
            for phrase in sorted(phrases, key=lambda phrase: seeded_hash(seed, item.id, phrase)):
                if len(found) == most:
                    break
                if self._fits(item, role, phrase):
                    found.setdefault(phrase[0].upper() + phrase[1:] if capital else phrase, source)
        return [Candidate(*pair) for pair in found.items()]

    def why_none(self, item: Item, role: str) -> str:
        """Return the reason why no candidate could be used."""
        visual = role == "visual"
        constraint = getattr(item, f"{role}_constraint")
        kind = visual_kind(item.question, constraint)[0] if visual else text_form(constraint)
        if kind is None or kind[0] not in FORMS.keys() | kinds().keys():
            return f"unknown kind: {constraint!r} is of none in {KINDS_FILE.name}, and nothing in the test bed fits"
        return f"no candidate fits: all for {constraint!r} share an answer or a word with the item, or are refused"

    def _add(self, item: Item) -> None:
        group, answers = (item.part, item.relation), {compared(answer) for answer in item.answers}
        kind, _ = visual_kind(item.question, item.visual_constraint)
        if item.entity:
            for key in (kind, None):
                self._shown[*group, key][item.entity] = None
            self._answers[*group, compared(item.entity)] |= answers
        if item.visual_replacement:
            self._replacements[kind, item.visual_constraint[0].isupper()][item.visual_replacement] = None
        if item.text_constraint:
            form = text_form(item.text_constraint)
            for entity in (item.entity, None):
                self._texts[*group, form, entity][item.text_constraint] = None
            self._answers[*group, compared(item.entity), compared(item.text_constraint)] |= answers
            if item.text_replacement:
                capital = item.text_constraint[0].isupper()
                self._replacements[*group, form, capital][item.text_replacement] = None

    def _sources(self, item: Item, role: str) -> Iterator[tuple[str, Iterable[str]]]:
        constraint = getattr(item, f"{role}_constraint")
        group, capital = (item.part, item.relation), constraint[0].isupper()
        if role == "text":
            form = text_form(constraint)
            if item.entity:
                yield "entity", self._texts.get((*group, form, item.entity), ())
            yield "constraint", self._texts.get((*group, form, None), ())
            yield "kind", form.names if isinstance(form, Kind) else ()
            yield "form", other_forms(constraint)
            yield "replacement", self._replacements.get((*group, form, capital), ())
            return
        kind, source = visual_kind(item.question, item.visual_constraint)
        if kind:
            yield "entity", self._shown.get((*group, kind), ())
            yield source, kind.names
            yield "replacement", self._replacements.get((kind, capital), ())
        if item.relation:
            yield "relation", self._shown.get((*group, None), ())

    def _fits(self, item: Item, role: str, phrase: str) -> bool:
        words, group = compared(phrase), (item.part, item.relation)
        if gives_away(phrase, item) or _overlap(words, (item.visual_constraint, item.text_constraint or "")):
            return False
        if role == "text" and not item.entity:
            return True  # the same words about another image say nothing
        key = (*group, words) if role == "visual" else (*group, compared(item.entity), words)
        return not self._answers.get(key, set()) & {compared(answer) for answer in item.answers}


def compared(text: str) -> tuple[str, ...]:
    """Return the words of a phrase for comparison: as in VQA accuracy, and "zebras" like "a zebra"."""
    words = normalize_vqa_answer(text) or text.strip().lower()  # the letter A is no article
    return tuple(word.removesuffix("s") for word in words.split())


def gives_away(phrase: str, item: Item) -> bool:
    """Return whether a phrase contains, or is part of, an answer of the item or what its image shows."""
    return _overlap(compared(phrase), (item.entity, *item.answers, *item.annotations))


def _overlap(words: tuple[str, ...], phrases: Iterable[str]) -> bool:
    """Whether the words contain one of the phrases, or it contains them."""
    others = (compared(phrase) for phrase in phrases if phrase)
    return any(_within(other, words) or _within(words, other) for other in others)


def _within(words: tuple[str, ...], others: tuple[str, ...]) -> bool:
    """Whether the others contain the words one after the other."""
    return any(others[i : i + len(words)] == words for i in range(len(others) - len(words) + 1))
