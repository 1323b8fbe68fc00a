"""Which tokens spell a phrase, and how the tokens of two versions of a prompt correspond.

Read off the tokenizer's character offsets, never searched for in decoded tokens: a phrase is found whether
its first token carries the space before it or not, at either end of the question, in any script.
"""

import itertools
import re
import unicodedata


class PromptError(ValueError):
    """A question, constraint or replacement that cannot be used, in one sentence with the fix."""


def normalise(text: str) -> str:
    """NFC without outer space: the same letters written in two ways must be one string."""
    return unicodedata.normalize("NFC", text).strip()


def overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two spans [begin, end) have a place in common."""
    return one[0] < other[1] and other[0] < one[1]


def find_phrase(question: str, phrase: str, name: str, *, last: bool) -> tuple[int, int]:
    """Character span of a phrase in a question. name: the parameter to blame."""
    phrase = normalise(phrase)
    if not phrase:
        raise PromptError(f"{name} is empty: give the words of the question that it consists of.")
    literal = re.escape(phrase)
    for pattern in (rf"(?<!\w){literal}(?!\w)", literal):
        for flags in (0, re.IGNORECASE):
            found = [match.span() for match in re.finditer(pattern, question, flags)]
            if pattern != literal:  # vowel signs, as of Hindi, are marks and no letters, but belong to the word
                found = [(a, b) for a, b in found if not _has_mark(question[max(a - 1, 0) : a] + question[b : b + 1])]
            if found:
                return found[-1 if last else 0]
    raise PromptError(
        f"{name} {phrase!r} is not in the question {question!r}: give words that stand in it as they are."
    )


def constraint_spans(question: str, visual_constraint: str, text_constraint: str | None) -> dict[str, tuple[int, int]]:
    """Where the experiments find the constraints in `normalise(question)`: by "visual" and "text", what is marked.

    Raises PromptError for one that does not stand in the question.
    """
    question, spans = normalise(question), {}
    if visual_constraint:
        spans["visual"] = find_phrase(question, visual_constraint, "visual_constraint", last=False)
    if text_constraint:
        spans["text"] = find_phrase(question, text_constraint, "text_constraint", last=True)
    return spans


def locate(
    model, template: str, question: str, spans: dict, n_visual: int
) -> tuple[list[int], dict[str, tuple[int, ...]]]:
    """Ids of the whole prompt, and by role the positions of the tokens that overlap its span of the question.

    n_visual: tokens that the picture becomes.
    """
    ids, offsets, text = model.tokenize(template.format(question=question), n_visual)
    head = template.split("{question}")[0]
    shift = (
        len(text) - len(template.format(question=question))
        if model.image_token and model.image_token in head
        else 0
    )
    shift += len(head)
    members = {}
    for role, (begin, end) in spans.items():
        # A span has no outer space, so a token that is only the space before it does not overlap it.
        place = (begin + shift, end + shift)
        overlapping = [i for i, (a, b) in enumerate(offsets) if a < b and overlap((a, b), place)]
        if not overlapping:
            raise PromptError(
                f"{role} {question[begin:end]!r} has no token of its own in {question!r}: reword it."
            )
        members[role] = tuple(overlapping)
    return ids, members


def align(clean_ids: list[int], ids: list[int], phrases: list) -> tuple[tuple[int | None, ...], int]:
    """Clean position -> corrupted position, and the first corrupted position.

    phrases: the (clean, corrupted) token ranges [begin, end) of every constraint, in order. Between them the
    tokens are the same, except that a replacement may be tokenised differently together with its neighbour ("
    B" is one token where " C" is two, ")?" is one where "C?" is two). Such neighbours correspond to no token of the
    phrase: inside it the last token stands for the last, whatever comes after.
    """
    ranges = [[list(clean), list(corrupted)] for clean, corrupted in phrases]
    ends = [[[0, 0], [0, 0]], *ranges, [[len(clean_ids)] * 2, [len(ids)] * 2]]
    for left, right in itertools.pairwise(ends):
        gap, gap2 = clean_ids[left[0][1] : right[0][0]], ids[left[1][1] : right[1][0]]
        same = _common_prefix(gap, gap2)
        if same == len(gap) == len(gap2):
            continue
        same_after = _common_prefix(gap[same:][::-1], gap2[same:][::-1])
        if same_after == 0 and right is not ends[-1]:
            right[0][0] -= len(gap) - same
            right[1][0] -= len(gap2) - same
        elif same == 0 and left is not ends[0]:
            left[0][1] += len(gap) - same_after
            left[1][1] += len(gap2) - same_after
        else:
            raise PromptError(
                "visual_replacement or text_replacement changes tokens apart from the phrase it replaces: "
                "choose another phrase."
            )
    alignment: list[int | None] = []
    shift = 0
    for ((begin, end), (_, end2)), ((first, stop), (first2, stop2)) in zip(ranges, phrases, strict=True):
        alignment += [p + shift for p in range(len(alignment), begin)]
        alignment += [None] * (first - begin)
        inside, shift = stop2 - stop, end2 - end  # both by distance from the right: of the phrase's end, of the whole's
        alignment += [p + inside if p + inside >= first2 else None for p in range(first, stop)]
        alignment += [p + shift if p + shift >= stop2 else None for p in range(stop, end)]
    alignment += [p + shift for p in range(len(alignment), len(clean_ids))]
    changed = [two[0] for one, two in ranges if clean_ids[slice(*one)] != ids[slice(*two)]]
    return tuple(alignment), min(changed or [ranges[0][1][0]])


def _has_mark(text: str) -> bool:
    return any(unicodedata.category(character).startswith("M") for character in text)


def token_range(positions) -> tuple[int, int]:
    return positions[0], positions[-1] + 1


def _common_prefix(a: list, b: list) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def token_texts(model, ids: list[int]) -> list[str]:
    """Each token as a reader sees it, its leading space kept (SentencePiece drops it from a token decoded
    alone)."""
    texts = {}
    for token in set(ids):
        text = model.tokenizer.decode([token])
        piece = model.tokenizer.convert_ids_to_tokens(token) or ""  # none: embeddings are often padded with spare rows
        spaces = len(piece) - len(piece.lstrip("▁"))  # decoded alone, a token of two spaces would be one
        texts[token] = " " * spaces + text.lstrip(" ") if spaces else text
    return [texts[token] for token in ids]
