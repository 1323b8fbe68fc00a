"""Check whether a phrase can be a constraint: contiguous in the question, and a whole noun phrase.

Rules and word lists, not a parser, find what annotators get wrong in practice: punctuation, a possessive, a compound
cut short. People decide whether a phrase is the *right* one.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from ..errors import PromptError
from ..text import constraint_spans, find_phrase, normalize
from .schema import Item

DEMONSTRATIVES = frozenset("this these that those".split())
PRONOUNS = DEMONSTRATIVES | frozenset("it they them he him she her here there".split())  # phrases by themselves
_ARTICLES = frozenset("the a an".split())
_WORDS = yaml.safe_load(Path(__file__).with_name("phrase_words.yaml").read_text(encoding="utf-8"))
_PREPOSITIONS, _OTHERS, _MODIFIERS, _OF_KINDS = (
    frozenset(_WORDS[name].split()) for name in ("prepositions", "others", "modifiers", "kinds"))
_COMPOUNDS = frozenset(tuple(pair.split()) for pair in _WORDS["compounds"].split(","))
FUNCTION_WORDS = _ARTICLES | DEMONSTRATIVES | _PREPOSITIONS | _OTHERS
_TRAILING = " \t.,;:!?…\"”»)]}-–—"
_ABBREVIATED = re.compile(r"(?:^|[\s.])\w\.$")  # "the U.S." ends in a full stop of its own
_POSSESSIVE = re.compile(r"(?<=\w)['’`´]s?$|(?<=\w)[‘ʼ]s$", re.IGNORECASE)
_WORD = re.compile(r"\w[\w'’.-]*(?<![.'’-])|\w")
_POINTS = re.compile(
    r"\b(?:this|these|those)\b(?! (?:year|century|day|days|week|month|world|time)s?\b)"
    r"|(?:^|\b(?:is|are|was|were|of|in|on|at|by|to|from|with|for|about|does|do|did|like) )that\b"
    r"|\b(?:shown|seen|depicted|pictured|photographed)\b"
    r"|\bthe (?:picture|photo|photograph|image|background|foreground)\b",
    re.IGNORECASE,
)


def trim(phrase: str) -> tuple[str, list[str]]:
    """Return the phrase without outer punctuation and possessive, and the names of what was removed."""
    trimmed, removed = normalize(phrase), []
    while True:
        shorter = trimmed if _ABBREVIATED.search(trimmed) else trimmed.rstrip(_TRAILING)
        shorter = shorter.lstrip(" \t\"“«([{")
        if shorter != trimmed:
            removed.append("punctuation")
        without = _POSSESSIVE.sub("", shorter)
        if without != shorter:
            removed.append("possessive")
        if without == trimmed:
            return trimmed, list(dict.fromkeys(removed))
        trimmed = without


def phrase_problem(question: str, phrase: str) -> str:
    """Return why a phrase cannot be a constraint of this question, as the end of a sentence, or ""."""
    wrong = contiguity_problem(question, phrase)
    if wrong:
        return wrong
    removed = trim(phrase)[1]
    if removed:
        return f"it ends in a {removed[0]}" if removed == ["possessive"] else "punctuation is no part of it"
    return noun_phrase_problem(question, phrase)


def contiguity_problem(question: str, phrase: str) -> str:
    """Return why a phrase is not contiguous in the question, or "". Case is ignored."""
    try:
        find_phrase(normalize(question), phrase, "the phrase", last=False)
    except PromptError:
        return "its words do not stand in the question one after the other" if normalize(phrase) else "it is empty"
    return ""


def noun_phrase_problem(question: str, phrase: str) -> str:
    """Return why a phrase of the question is no whole noun phrase, or ""."""
    words = words_of(phrase)
    if not words:
        return "it has no word"
    if words[-1] in FUNCTION_WORDS and not (len(words) == 1 and words[0] in PRONOUNS):
        return f"it ends in {words[-1]!r}, so a noun is missing"
    if words[0] in _PREPOSITIONS or words[0] in _OTHERS - {"my", "your", "his", "its", "our", "their", "no"}:
        return f"it begins with {words[0]!r}, which is no part of a noun phrase"
    begin, _ = find_phrase(normalize(question), phrase, "the phrase", last=False)
    before = words_of(normalize(question)[:begin])
    if before and before[-1] in DEMONSTRATIVES and words[0] not in FUNCTION_WORDS:
        return f"it leaves out the word {before[-1]!r} before it"
    missing = cut_short(question, phrase)
    return f"it is cut short: {missing!r} belongs to it" if missing else ""


def cut_short(question: str, phrase: str) -> str:
    """Return the word after the phrase that belongs to it ("system" after "this operating"), or ""."""
    _, end = find_phrase(normalize(question), phrase, "the phrase", last=False)
    after = re.match(r"[ -](\w+)", normalize(question)[end:])
    words = words_of(phrase)
    if not after or not words:
        return ""
    last, following = words[-1], after[1].lower()
    singular = following.removesuffix("s")
    if (last, following) in _COMPOUNDS or (last, singular) in _COMPOUNDS:
        return after[1]
    return after[1] if last in _MODIFIERS and following not in FUNCTION_WORDS else ""


def needs_image(text: str) -> bool:
    """Return whether the text points at an image ("this animal", "shown here")."""
    return bool(_POINTS.search(text))


def head_noun(phrase: str) -> str:
    """Return the noun that names the kind of thing a phrase is about, in lower case; "" for a bare "this".

    "this old building" is about a building, "this type of food" about food, "the man in the hat" about a man.
    """
    words = words_of(phrase)
    while len(words) > 2 and "of" in words and words[words.index("of") - 1] in _OF_KINDS:
        words = words[words.index("of") + 1 :]
    cut = next((i for i, word in enumerate(words) if i and word in _PREPOSITIONS), len(words))
    words = [word for word in words[:cut] if word not in PRONOUNS | _ARTICLES]
    return re.sub(r"['’]s?$", "", words[-1]) if words else ""


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation."""
    return [word.lower() for word in _WORD.findall(normalize(text))]


def question_pieces(item: Item, phrases: dict[str, str] | None = None) -> list[tuple[str, str]]:
    """Return the question in pieces (text, role). role is "constraint", "text_constraint" or "".

    `phrases` holds by role the text shown in its place.
    """
    question = normalize(item.question)
    roles = {"visual": "constraint", "text": "text_constraint"}
    found = constraint_spans(question, item.visual_constraint, item.text_constraint)
    spans = [(*span, roles[name]) for name, span in found.items()]
    pieces, end = [], 0
    for begin, stop, role in sorted(spans):
        pieces += [(question[end:begin], ""), ((phrases or {}).get(role, question[begin:stop]), role)]
        end = stop
    return [piece for piece in [*pieces, (question[end:], "")] if piece[0]]
