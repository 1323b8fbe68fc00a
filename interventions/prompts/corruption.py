"""Corrupt a prompt: replace a constraint, repeat a token, or add noise; align clean and corrupted positions."""

from dataclasses import dataclass, field
from numbers import Integral, Real

import torch

from ..errors import PromptError
from ..text import must_be_text, normalize, quoted
from .prompt import Prompt, resolve_positions
from .tokens import align, check_token_ids, locate, token_range, token_texts, without_control_tokens


@dataclass(frozen=True)
class Noise:
    """Gaussian noise on input embeddings: `scale` of their standard deviations, `samples` draws from `seed`."""

    positions: tuple[int, ...]
    scale: float
    samples: int
    seed: int


@dataclass(frozen=True)
class CorruptedPrompt:
    """The corrupted prompt of T' tokens and its alignment with the clean one.

    Attributes:
        text: the chat text; the clean text for a repeated token or noise.
        alignment: for each of the T clean positions, the matching corrupted position or None.
        first_corrupted: the first position that differs; restoring before it has no effect.
    """

    text: str
    input_ids: torch.Tensor = field(repr=False)  # [T']
    position_ids: torch.Tensor = field(repr=False)  # [rows, T'], see `engine.forward.positions_at`
    tokens: tuple[str, ...] = field(repr=False)
    alignment: tuple[int | None, ...] = field(repr=False)
    first_corrupted: int
    noise: Noise | None = None


def corrupt(
    model,
    prompt: Prompt,
    *,
    visual_replacement: str | None = None,
    text_replacement: str | None = None,
    repeat_token: str | int | None = None,
    repeat_role: str | tuple[str, ...] = "constraint",
) -> CorruptedPrompt:
    """Replace the visual constraint, the text constraint, or both (paper, section 3.2).

    Tokens outside a constraint align one to one. Inside, tokens align from the right; the rest align with None.

    Args:
        visual_replacement: a fluent phrase in place of the visual constraint.
        text_replacement: a fluent phrase in place of the text constraint.
        repeat_token: the authors' way instead: this token (an id, or the first token of a word) replaces every token
            of the constraints `repeat_role`.

    Raises:
        PromptError: a replacement or token cannot be used.
    """
    if repeat_token is not None:
        if visual_replacement is not None or text_replacement is not None:
            raise PromptError(
                "repeat_token replaces the constraint by itself: give it or the replacements, not both."
            )
        return _repeat(model, prompt, repeat_token, (repeat_role,) if isinstance(repeat_role, str) else repeat_role)
    replacements = {"constraint": visual_replacement, "text_constraint": text_replacement}
    for name, phrase in (("visual_replacement", visual_replacement), ("text_replacement", text_replacement)):
        if phrase is not None:
            must_be_text(name, phrase)
    replacements = {role: normalize(phrase) for role, phrase in replacements.items() if phrase is not None}
    if not replacements or not all(replacements.values()):
        raise PromptError("visual_replacement, text_replacement or repeat_token must be given, and not be empty.")
    for role, phrase in replacements.items():
        if role not in prompt.spans:
            raise PromptError(f"text_replacement was given but the prompt has no {role}: build it with one.")
        without_control_tokens(model, {"constraint": "visual_replacement"}.get(role, "text_replacement"), phrase)
    template = model.prompt_template(image=bool(prompt.image_inputs), protocol=prompt.protocol)
    question, spans = _replace(prompt.question, prompt.spans, replacements)
    ids, members = locate(model, template, question, spans, prompt.image_text)
    phrases = sorted(
        (token_range(prompt.positions(role)), token_range(members[role])) for role in prompt.spans
    )
    alignment, first_corrupted = align(prompt.input_ids.tolist(), ids, phrases)
    return CorruptedPrompt(
        text=template.format(question=question),
        input_ids=torch.tensor(ids),
        position_ids=model.position_table(ids, prompt.image_inputs),
        tokens=tuple(token_texts(model, ids)),
        alignment=alignment,
        first_corrupted=first_corrupted,
    )


def noise(
    model, prompt: Prompt, positions, *, scale: float = 3.0, samples: int = 10, seed: int = 0
) -> CorruptedPrompt:
    """Add Gaussian noise to the input embeddings at positions (indices or roles; ROME, section 2.1).

    The standard deviation is `scale` times that of the prompt's embeddings at these positions, visual and text tokens
    apart. Effects are means over `samples` draws. Raises PromptError.
    """
    chosen = resolve_positions(prompt, positions, PromptError)
    if not chosen:
        raise PromptError("positions names no token of this prompt: give indices or roles that it has.")
    if isinstance(scale, bool) or not isinstance(scale, Real) or not 0 < scale < float("inf"):
        raise PromptError(f"scale must be a number larger than 0, not {quoted(scale)}.")
    for name, value, least in (("samples", samples, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, Integral) or not least <= value < 2**63:
            raise PromptError(f"{name} must be a whole number, at least {least}, not {quoted(value)}.")
    return CorruptedPrompt(
        text=prompt.text,
        input_ids=prompt.input_ids,
        position_ids=prompt.position_ids,
        tokens=prompt.tokens,
        alignment=tuple(range(len(prompt))),
        first_corrupted=chosen[0],
        noise=Noise(chosen, float(scale), int(samples), int(seed)),
    )


def _replace(question: str, spans: dict, replacements: dict) -> tuple[str, dict]:
    """Return the question with phrases replaced, and the new spans of all constraints."""
    moved, shift = {}, 0
    for role, (begin, end) in sorted(spans.items(), key=lambda item: item[1]):
        phrase = replacements.get(role, question[begin + shift : end + shift])
        question = question[: begin + shift] + phrase + question[end + shift :]
        moved[role] = (begin + shift, begin + shift + len(phrase))
        shift += len(phrase) - (end - begin)
    return question, moved


def _repeat(model, prompt: Prompt, token: str | int, roles: tuple[str, ...]) -> CorruptedPrompt:
    """Replace every token of the constraints by one token, as the released scripts do."""
    for role in roles:
        if role not in prompt.spans:
            raise PromptError(
                f"repeat_role {quoted(role)} has no token in this prompt: use {' or '.join(map(repr, prompt.spans))}."
            )
    positions = resolve_positions(prompt, roles)
    if isinstance(token, str):
        if not token.strip():
            raise PromptError("repeat_token is empty: give a word, or the id of a token.")
        without_control_tokens(model, "repeat_token", token)
        # As it would stand after other words, and in any tokenizer without a token for the space alone.
        pieces = model.tokenizer(
            f"{token.strip()} {token.strip()}", add_special_tokens=False, return_offsets_mapping=True
        )
        begin = len(token.strip()) + 1
        token = next(
            i for i, (_, b) in zip(pieces["input_ids"], pieces["offset_mapping"], strict=True) if b > begin
        )
    [token] = check_token_ids(model, "repeat_token", [token])
    if token == model.image_token_id:
        raise PromptError(f"repeat_token {token} is the placeholder of the image: give another.")
    ids = prompt.input_ids.clone()
    ids[list(positions)] = token
    return CorruptedPrompt(
        text=prompt.text,
        input_ids=ids,
        position_ids=prompt.position_ids,
        tokens=tuple(token_texts(model, ids.tolist())),
        alignment=tuple(range(len(prompt))),
        first_corrupted=positions[0],
    )
