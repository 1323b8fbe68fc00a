"""Choose the replacements of an item among those of its question.

Items share questions ("Name a film by this director") but not images: a good replacement for one item may name the
answer or the content of the image of another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from ...errors import TestBedError
from ...text import first_line, normalize, quoted
from ..candidates import gives_away
from ..schema import Item
from .prompt import Marks, substituted


@dataclass(frozen=True)
class Annotated:
    """An item after annotation.

    Attributes:
        item: the item, changed if it is annotated.
        state: "as it was" (it was not to be annotated), "annotated", "failed" (unchanged) or "not asked" (the run
            ended before, or had a limit).
        reason: why it failed, or why it lacks a replacement. The text before a colon is the kind.
        equal_length: whether the replacements chosen in this run have as many tokens as their constraints. None
            without a tokenizer, if none was chosen, and if one is lacking.
    """

    item: Item
    state: str
    reason: str = ""
    equal_length: bool | None = None


def annotated(
    item: Item, marks: Marks, reason: str, n_tokens: Callable[[str], int] | None, *, anew: bool = False
) -> Annotated:
    """Return the item with these constraints, and for each the first replacement that does not give the item away.

    Replacements with as many tokens as the constraint come first. Paraphrases that lack a constraint are left out.
    """
    bare = replace(item, visual_replacement="", text_replacement=None)
    new, reasons, equal = bare.with_constraints(marks.visual_constraint, marks.text_constraint), [], []
    for role in ("visual", "text"):
        constraint, phrases = getattr(marks, f"{role}_constraint"), getattr(marks, f"{role}_replacements")
        if constraint is None:
            continue
        unchanged = getattr(item, f"{role}_constraint") == constraint
        chosen = unchanged and getattr(item, f"{role}_replacement")
        if anew or not chosen:
            fitting = [phrase for phrase in phrases if not gives_away(phrase, item)]
            if fitting:
                difference = {phrase: _difference(item, constraint, phrase, role, n_tokens) for phrase in fitting}
                chosen = min(fitting, key=lambda phrase: difference[phrase] != 0)  # the first of the best
                equal.append(difference[chosen] == 0)
            elif not chosen:
                reasons.append(reason or (
                    "every replacement that passed names the answer or what the image shows" if phrases
                    else "no replacement passed the judge"
                ))
        new = replace(new, **{f"{role}_replacement": chosen}) if chosen else new
    known = n_tokens is not None and equal and not reasons
    return Annotated(new, "annotated", "; ".join(dict.fromkeys(reasons)), all(equal) if known else None)


def token_counter(tokenizer) -> Callable[[str], int] | None:
    """Return a function that counts the tokens of a question in a prompt, or None without a tokenizer."""
    if tokenizer is None:
        return None
    if isinstance(tokenizer, str | Path):
        from transformers import AutoTokenizer  # heavy

        try:
            tokenizer = AutoTokenizer.from_pretrained(tokenizer, trust_remote_code=False)
        except (OSError, ImportError, ValueError) as error:
            named = quoted(Path(tokenizer))
            raise TestBedError(f"tokenizer {named} cannot be loaded ({first_line(error)}).") from error
    tokenize = getattr(tokenizer, "tokenize", tokenizer)
    return cache(lambda text: len(tokenize("\n" + text)))  # prompts have it after the image, on a new line


def _difference(item: Item, constraint: str, phrase: str, role: str, n_tokens) -> int | None:
    """How many tokens longer the question becomes; None without a tokenizer."""
    if n_tokens is None:
        return None
    question = normalize(item.question)
    return n_tokens(substituted(question, constraint, phrase, last=role == "text")) - n_tokens(question)
