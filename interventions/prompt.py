"""A question about an image as token ids with known positions, and its corrupted counterparts.

A corruption comes with its *alignment*, clean position -> corrupted position, because what is restored at a
token of the corrupted run must be the clean run's output at the token it stands for. How tokens are found:
`tokens.py`.
"""

from dataclasses import dataclass, field
from numbers import Integral

import torch

from .tokens import PromptError, align, find_phrase, locate, normalise, overlap, token_range, token_texts

ROLES = ("visual", "constraint", "text_constraint", "last", "other")


@dataclass(frozen=True)
class Prompt:
    """One clean prompt of T tokens.

    text: the chat text with one `<image>`; question: as it stands in it (NFC, the template's punctuation).
    spans: the character spans of the constraints in `question`, by role.
    """

    text: str
    question: str
    protocol: str
    input_ids: torch.Tensor = field(repr=False)  # [T], image expanded
    image_inputs: dict[str, torch.Tensor] = field(repr=False)  # by the model's names; empty without a picture
    tokens: tuple[str, ...] = field(repr=False)
    roles: tuple[str, ...] = field(repr=False)
    spans: dict[str, tuple[int, int]]

    def positions(self, role: str) -> tuple[int, ...]:
        """Positions of all tokens of a role."""
        return tuple(i for i, name in enumerate(self.roles) if name == role)

    @property
    def visual(self) -> tuple[int, ...]:
        return self.positions("visual")

    @property
    def constraint(self) -> tuple[int, ...]:
        return self.positions("constraint")

    @property
    def text_constraint(self) -> tuple[int, ...]:
        return self.positions("text_constraint")

    @property
    def last(self) -> int:
        return len(self.roles) - 1

    def __len__(self) -> int:
        return len(self.roles)


@dataclass(frozen=True)
class Noise:
    """Gaussian noise on input embeddings: `scale` standard deviations of them, `samples` draws from `seed`.

    A recipe, not a tensor: the draws are made where the weights are, the same on every device.
    """

    positions: tuple[int, ...]
    scale: float
    samples: int
    seed: int


@dataclass(frozen=True)
class CorruptedPrompt:
    """The corrupted prompt of T' tokens and how it corresponds to the clean one.

    text: the chat text; with a repeated token or noise the clean one's, for only tokens or embeddings differ.
    alignment: for each of the T clean positions the corrupted position that stands for it, or None.
    first_corrupted: everything before it is the same in both, so restoring there has no effect.
    """

    text: str
    input_ids: torch.Tensor = field(repr=False)  # [T']
    tokens: tuple[str, ...] = field(repr=False)
    alignment: tuple[int | None, ...] = field(repr=False)
    first_corrupted: int
    noise: Noise | None = None


def build_prompt(
    model,
    question: str,
    image=None,
    *,
    visual_constraint: str,
    text_constraint: str | None = None,
    protocol: str = "paper",
) -> Prompt:
    """Put a question (and a picture: PIL image, path or None) into the model's chat format and find its
    parts (paper, section 3.1).

    The constraints must stand in the question word for word (case is forgiven). Of several occurrences the
    visual constraint is the first and the text constraint the last, whole words before parts of words.
    protocol: "paper" (the model's own chat format) or "authors" (that of the released scripts).
    Raises PromptError, TestBedError for an image that cannot be read, and ModelError for an unknown protocol.
    """
    template, question = in_format(model, question, image is not None, protocol)
    spans = {"constraint": find_phrase(question, visual_constraint, "visual_constraint", last=False)}
    if text_constraint is not None:
        spans["text_constraint"] = find_phrase(question, text_constraint, "text_constraint", last=True)
        if overlap(spans["constraint"], spans["text_constraint"]):
            raise PromptError(
                f"text_constraint {text_constraint!r} overlaps visual_constraint {visual_constraint!r}: "
                "give phrases that stand apart in the question."
            )
    text = template.format(question=question)
    image_inputs, n_visual = ({}, 0) if image is None else model.read_image(image)
    ids, members = locate(model, template, question, spans, n_visual)
    roles = ["other"] * len(ids)
    roles[-1] = "last"
    for role, positions in members.items():
        for position in positions:
            roles[position] = role
    for position, token in enumerate(ids):
        if token == model.image_token_id:
            roles[position] = "visual"
    return Prompt(
        text=text,
        question=question,
        protocol=protocol,
        input_ids=torch.tensor(ids),
        image_inputs=image_inputs,
        tokens=tuple(token_texts(model, ids)),
        roles=tuple(roles),
        spans=spans,
    )


def in_format(model, question: str, has_image: bool, protocol: str = "paper") -> tuple[str, str]:
    """The chat format, and the question as it stands in it. Raises PromptError for what cannot be asked."""
    if has_image and not model.is_multimodal:
        raise PromptError(f"image was given but model {model.name!r} reads text only: leave image out.")
    template = model.prompt_template(image=has_image, protocol=protocol)
    question = normalise(question)
    if not question:
        raise PromptError("question is empty: give the question's text.")
    _without_image_token(model, "question", question)
    return template, question.rstrip("?").rstrip() if "{question}?" in template else question


def _without_image_token(model, name: str, text: str) -> None:
    if model.image_token and model.image_token in text:
        raise PromptError(f"{name} contains {model.image_token!r}, the placeholder of the image: leave it out.")


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

    visual_replacement, text_replacement: fluent phrases put in place of the constraints; the new text is
    tokenised as a whole. Alignment is identical before a constraint and by distance from the right end after
    it; inside, the last token stands for the last, and clean tokens left over stand for nothing.
    repeat_token: the authors' way instead: every token of the constraint `repeat_role` (or of several) becomes this
    one token (an id, or a word whose first token is taken), so lengths agree.
    Raises PromptError.
    """
    if repeat_token is not None:
        if visual_replacement is not None or text_replacement is not None:
            raise PromptError(
                "repeat_token replaces the constraint by itself: give it or the replacements, not both."
            )
        return _repeat(model, prompt, repeat_token, (repeat_role,) if isinstance(repeat_role, str) else repeat_role)
    replacements = {"constraint": visual_replacement, "text_constraint": text_replacement}
    replacements = {role: normalise(phrase) for role, phrase in replacements.items() if phrase is not None}
    if not replacements or not all(replacements.values()):
        raise PromptError(
            "visual_replacement, text_replacement or repeat_token must be given, and not be empty."
        )
    for role, phrase in replacements.items():
        if role not in prompt.spans:
            raise PromptError(f"text_replacement was given but the prompt has no {role}: build it with one.")
        _without_image_token(model, {"constraint": "visual_replacement"}.get(role, "text_replacement"), phrase)
    template = model.prompt_template(image=bool(prompt.image_inputs), protocol=prompt.protocol)
    question, spans = _replace(prompt.question, prompt.spans, replacements)
    ids, members = locate(model, template, question, spans, len(prompt.visual))
    phrases = sorted(
        (token_range(prompt.positions(role)), token_range(members[role])) for role in prompt.spans
    )
    alignment, first_corrupted = align(prompt.input_ids.tolist(), ids, phrases)
    return CorruptedPrompt(
        text=template.format(question=question),
        input_ids=torch.tensor(ids),
        tokens=tuple(token_texts(model, ids)),
        alignment=alignment,
        first_corrupted=first_corrupted,
    )


def noise(
    model, prompt: Prompt, positions, *, scale: float = 3.0, samples: int = 10, seed: int = 0
) -> CorruptedPrompt:
    """Gaussian noise on the input embeddings at positions (indices, or names of roles), visual tokens
    included.

    Standard causal tracing (ROME, section 2.1) noises ("visual", "constraint"). The noise's standard deviation is
    `scale` times that of the prompt's own embeddings at these positions, visual and text tokens each by their own;
    effects are means over `samples` draws. Raises PromptError.
    """
    chosen = resolve_positions(prompt, positions, PromptError)
    if not chosen:
        raise PromptError("positions names no token of this prompt: give indices or roles that it has.")
    if not scale > 0:
        raise PromptError(f"scale must be larger than 0, not {scale}.")
    if samples < 1:
        raise PromptError(f"samples must be at least 1, not {samples}.")
    return CorruptedPrompt(
        text=prompt.text,
        input_ids=prompt.input_ids,
        tokens=prompt.tokens,
        alignment=tuple(range(len(prompt))),
        first_corrupted=chosen[0],
        noise=Noise(chosen, float(scale), int(samples), int(seed)),
    )


def resolve_positions(prompt: Prompt, positions, error=PromptError) -> tuple[int, ...]:
    """Indices and role names (one or several) -> sorted positions without duplicates."""
    if isinstance(positions, (str, Integral)):
        positions = (positions,)
    chosen = set()
    for entry in positions:
        if isinstance(entry, str):
            if entry not in ROLES:
                raise error(f"positions names the unknown role {entry!r}: use {', '.join(ROLES)} or indices.")
            chosen.update(prompt.positions(entry))
        elif not -len(prompt) <= entry < len(prompt):
            raise error(f"positions holds {entry}, but the prompt has {len(prompt)} tokens.")
        else:
            chosen.add(int(entry) % len(prompt))
    return tuple(sorted(chosen))


def _replace(question: str, spans: dict, replacements: dict) -> tuple[str, dict]:
    """The question with phrases replaced, and where all constraints now stand."""
    moved, shift = {}, 0
    for role, (begin, end) in sorted(spans.items(), key=lambda item: item[1]):
        phrase = replacements.get(role, question[begin + shift : end + shift])
        question = question[: begin + shift] + phrase + question[end + shift :]
        moved[role] = (begin + shift, begin + shift + len(phrase))
        shift += len(phrase) - (end - begin)
    return question, moved


def _repeat(model, prompt: Prompt, token: str | int, roles: tuple[str, ...]) -> CorruptedPrompt:
    """The released scripts' corruption: one and the same token id all over the constraint."""
    for role in roles:
        if role not in prompt.spans:
            raise PromptError(
                f"repeat_role {role!r} has no token in this prompt: use {' or '.join(map(repr, prompt.spans))}."
            )
    positions = resolve_positions(prompt, roles)
    if isinstance(token, str):
        if not token.strip():
            raise PromptError("repeat_token is empty: give a word, or the id of a token.")
        # As it would stand after other words, and in any tokenizer without a token for the space alone.
        pieces = model.tokenizer(
            f"{token.strip()} {token.strip()}", add_special_tokens=False, return_offsets_mapping=True
        )
        begin = len(token.strip()) + 1
        token = next(
            i for i, (_, b) in zip(pieces["input_ids"], pieces["offset_mapping"], strict=True) if b > begin
        )
    ids = prompt.input_ids.clone()
    ids[list(positions)] = int(token)
    return CorruptedPrompt(
        text=prompt.text,
        input_ids=ids,
        tokens=tuple(token_texts(model, ids.tolist())),
        alignment=tuple(range(len(prompt))),
        first_corrupted=positions[0],
    )
