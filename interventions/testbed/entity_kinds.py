"""The kind of thing that a constraint is about, and the names of that kind, from `entity_kinds.yaml`.

A noun without a kind is its own kind. A text constraint has a form: a year, a number, a letter, or a name of a kind.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml

from ..text import find_phrase, normalize
from .phrases import PRONOUNS, head_noun, words_of

KINDS_FILE = Path(__file__).with_name("entity_kinds.yaml")
_BARE_MANY = ("these", "those", "they", "them")
_ASKED = re.compile(r"\b(?:what|which)\s+(.+?)\s+(?:is|are|was|were)\s+$", re.IGNORECASE)
_WHERE_IS = re.compile(r"^(?:where|when)\s+(?:is|are|was|were)\s+$", re.IGNORECASE)
FORMS = {"year": re.compile(r"\b(?:1[5-9]|20)\d\d\b"), "number": re.compile(r"\b\d{1,9}\b"),
          "letter": re.compile(r"\b[A-Z]\b")}
_FAR, _LAST_YEAR = 30, 2024  # the largest difference of another number or year; the latest year
_LETTERS = "ABCDEFGHIKLMNOPRSTUV"  # first letters of many names


class Kind(NamedTuple):
    """A kind of `entity_kinds.yaml`, or a noun without one. many: whether it is in the plural."""

    name: str
    many: bool

    @property
    def names(self) -> list[str]:
        return kinds().get(self.name, {}).get("plural" if self.many else "names", [])


@cache
def kinds() -> dict[str, dict[str, list[str]]]:
    """Return `entity_kinds.yaml`: kind -> one, many, names, and plural if it has them."""
    return yaml.safe_load(KINDS_FILE.read_text(encoding="utf-8"))


def kind_of(phrase: str) -> Kind | None:
    """Return the kind of a phrase by its noun ("this tall building") or name ("these zebras"), or None.

    The longest noun counts: "video game" in "this video game", not "game".
    """
    words, head = [re.sub(r"['’]s?$", "", word) for word in words_of(phrase)], head_noun(phrase)
    many = bool({"these", "those"} & set(words))  # "these sheep"
    if head:  # only a bare "this" is a word of the table
        words = [word for word in words if word not in PRONOUNS]
    end = words.index(head) + 1 if head in words else len(words)
    spans = [(begin, end) for begin in range(end)]  # those that end in the noun, and if that is in no kind, all
    spans += [(begin, stop) for begin in range(len(words)) for stop in range(len(words), begin, -1)]
    kind = next(filter(None, (_nouns().get(" ".join(words[begin:stop])) for begin, stop in spans)), None)
    return kind and Kind(kind.name, many or kind.many)


def visual_kind(question: str, constraint: str) -> tuple[Kind | None, str]:
    """Return the kind of a visual constraint (None: unknown) and its source.

    The source is "kind" for the constraint's own noun, and "asked" for a bare "this" with what the question asks for.
    """
    noun = head_noun(constraint)
    if noun:
        return kind_of(constraint) or Kind(noun, False), "kind"
    question = normalize(question)
    begin, end = find_phrase(question, constraint, "visual_constraint", last=False)
    asked = _ASKED.search(question[:begin])
    kind = asked and kind_of(asked[1])
    if kind:
        return Kind(kind.name, constraint.lower() in _BARE_MANY), "asked"
    names_itself = asked and not words_of(question[end:])  # "What time of day is this?"
    return (None if names_itself or _WHERE_IS.search(question[:begin]) else kind_of(constraint)), "kind"


def text_form(constraint: str) -> Kind | tuple[str, str]:
    """Return what varies in a text constraint ("year", "number", "letter") and the words around it ("in {}").

    For a name ("French") return its kind, otherwise ("", "").
    """
    for form, pattern in FORMS.items():
        if pattern.search(constraint):
            return form, pattern.sub("{}", constraint, count=1)
    return _names().get(_without_article(constraint), ("", ""))


def other_forms(constraint: str) -> list[str]:
    """Return the constraint with other years, numbers (of as many digits) or capital letters, if it has one."""
    form, around = text_form(constraint)
    if form not in FORMS:
        return []
    now = FORMS[form].search(constraint)[0]
    others = _LETTERS
    if form != "letter":
        last = max(_LAST_YEAR, int(now)) if form == "year" else int(now) + _FAR
        others = map(str, range(max(1, int(now) - _FAR), min(last, int(now) + _FAR) + 1))
    return [str(around).replace("{}", other) for other in others if other != now and len(other) == len(now)]


def _without_article(phrase: str) -> str:
    return re.sub(r"^(?:an?|the) ", "", phrase.lower())


@cache
def _names() -> dict[str, Kind]:
    """The first kind of each name, in lower case and without article."""
    return {
        _without_article(name): Kind(kind, column == "plural") for kind, entry in reversed(kinds().items())
        for column in ("plural", "names") for name in entry.get(column, ())
    }


@cache
def _nouns() -> dict[str, Kind]:
    """The kind of each noun, and of names that are common nouns ("a zebra", "sushi", not "Time")."""
    names = (name for entry in kinds().values() for name in (*entry["names"], *entry.get("plural", ())))
    common = map(_without_article, (name for name in names if name[0].islower() and not name.startswith("the ")))
    return {name: _names()[name] for name in common} | {
        noun: Kind(kind, column == "many") for kind, entry in kinds().items()
        for column in ("one", "many") for noun in entry[column]
    }
