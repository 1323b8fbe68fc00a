"""Find the tokens of a phrase by the tokenizer's character offsets, and align two versions of a prompt."""

import itertools
import re
import unicodedata
from numbers import Integral

from ..errors import PromptError
from ..text import overlap, quoted

MAX_ANSWER_TOKENS = 16


def locate(
    model, template: str, question: str, spans: dict, image_text: str
) -> tuple[list[int], dict[str, tuple[int, ...]]]:
    """Return the prompt's ids, and by role the positions of the tokens that overlap its span of the question.

    image_text: what stands for the picture, see `VisionLanguageModel.read_image`.
    """
    ids, offsets, text = model.tokenize(template.format(question=question), image_text)
    check_length(model, len(ids))
    head = template.split("{question}")[0]
    shift = len(head)
    if model.image_token and model.image_token in head:
        shift += len(text) - len(template.format(question=question))
    members = {}
    for role, (begin, end) in spans.items():
        # A span has no outer space, so a token that is only the space before it does not overlap it.
        place = (begin + shift, end + shift)
        overlapping = [i for i, (a, b) in enumerate(offsets) if a < b and overlap((a, b), place)]
        if not overlapping:
            raise PromptError(
                f"{role} {quoted(question[begin:end])} has no token of its own in {quoted(question)}: reword it."
            )
        members[role] = tuple(overlapping)
    return ids, members


def check_length(model, n_tokens: int, n_answer: int = MAX_ANSWER_TOKENS) -> None:
    """Raise PromptError if prompt and answer are longer than the model's attention window."""
    window = model.attention_window
    if window is not None and n_tokens + n_answer > window:
        raise PromptError(
            f"question makes a prompt of {n_tokens} tokens, and with {n_answer} of an answer that is more than the "
            f"{window} that some layers of model {model.name!r} see: shorten it, or use a model without such a window."
        )


def control_tokens(tokenizer) -> tuple[str, ...]:
    """Return the texts of control tokens: special tokens, and added tokens in brackets."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    texts = {str(one.content) for one in added if one.special or re.fullmatch(r"<.+>|\[[A-Z_]+\]", one.content)}
    return tuple(sorted(texts | set(tokenizer.all_special_tokens)))


def without_control_tokens(model, name: str, text: str, error: type[ValueError] = PromptError) -> None:
    """Raise `error` if `text`, the argument `name`, holds a control token such as "</s>" or "<image>"."""
    for token in model.control_tokens:
        if token in text:
            what = "the placeholder of the image" if token == model.image_token else "a control token of this model"
            raise error(f"{name} contains {token!r}, {what}: leave it out.")
    control = set(model.tokenizer.convert_tokens_to_ids(list(model.control_tokens))) - {model.tokenizer.unk_token_id}
    for token in control.intersection(model.tokenizer(text, add_special_tokens=False)["input_ids"]):  # another spelling
        spelt = model.tokenizer.convert_ids_to_tokens(token)
        raise error(f"{name} holds the control token {spelt!r} of this model: reword it.")


def check_token_ids(model, name: str, ids, error: type[ValueError] = PromptError) -> tuple[int, ...]:
    """Return token ids as plain integers. Raises `error` for an id outside the vocabulary."""
    size, checked = model.config.get_text_config().vocab_size, []
    for token in ids:
        if isinstance(token, bool) or not isinstance(token, Integral) or not 0 <= token < size:  # pyright: ignore[reportOperatorIssue]
            raise error(f"{name} must be token ids, whole numbers from 0 to {size - 1}, not {quoted(token)}.")
        checked.append(int(token))
    return tuple(checked)


def align(clean_ids: list[int], ids: list[int], phrases: list) -> tuple[tuple[int | None, ...], int]:
    """Return the corrupted position of each clean one, and the first corrupted position.

    `phrases` are the (clean, corrupted) token ranges [begin, end) of all constraints, in order. A replacement may merge
    with its neighbor into other tokens (")?" is one token, "C?" two); such neighbors align with no token of the phrase.
    """
    ranges = [[list(clean), list(corrupted)] for clean, corrupted in phrases]
    ends = [[[0, 0], [0, 0]], *ranges, [[len(clean_ids)] * 2, [len(ids)] * 2]]
    for left, right in itertools.pairwise(ends):
        gap, gap2 = clean_ids[left[0][1] : right[0][0]], ids[left[1][1] : right[1][0]]
        same = common_prefix(gap, gap2)
        if same == len(gap) == len(gap2):
            continue
        same_after = common_prefix(gap[same:][::-1], gap2[same:][::-1])
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


def token_range(positions) -> tuple[int, int]:
    return positions[0], positions[-1] + 1


def common_prefix(a: list, b: list) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def token_texts(model, ids: list[int]) -> list[str]:
    """Return the text of each token with its leading spaces, which SentencePiece drops from single tokens."""
    texts = {}
    for token in set(ids):
        text = model.tokenizer.decode([token])
        piece = model.tokenizer.convert_ids_to_tokens(token) or ""  # none: embeddings are often padded with spare rows
        spaces = len(piece) - len(piece.lstrip("▁"))  # decoded alone, a token of two spaces would be one
        texts[token] = " " * spaces + text.lstrip(" ") if spaces else text
    return [texts[token] for token in ids]


def blank_tokens(tokenizer) -> tuple[int, ...]:
    """Return the ids of tokens that hold only white space, control and format characters."""
    special = set(tokenizer.all_special_ids)
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    return tuple(
        token for token, text in enumerate(texts)
        if token not in special and all(c.isspace() or unicodedata.category(c) in ("Cc", "Cf") for c in text)
    )
