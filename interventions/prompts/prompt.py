"""A question about an image as token ids with known positions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from numbers import Integral

import torch

from ..errors import PromptError, TraceError
from ..text import find_phrase, must_be_text, normalize, overlap, quoted
from .tokens import check_token_ids, common_prefix, locate, token_range, token_texts, without_control_tokens

TOKEN_ROLES = ("visual", "constraint", "text_constraint", "last", "other")


@dataclass(frozen=True)
class Prompt:
    """One clean prompt of T tokens.

    Attributes:
        text: the chat text with one `<image>`.
        question: the question as it stands in the text (NFC, the template's punctuation).
        roles: the role of each token, of TOKEN_ROLES. If the last token is part of a constraint, it has that role.
        spans: the character spans of the constraints in `question`, by role.
    """

    text: str
    question: str
    protocol: str
    input_ids: torch.Tensor = field(repr=False)  # [T], image expanded
    position_ids: torch.Tensor = field(repr=False)  # [rows, T], see `engine.forward.positions_at`
    image_inputs: dict[str, torch.Tensor] = field(repr=False)  # by the model's names; empty without a picture
    image_text: str = field(repr=False)  # what stands for the picture in the text that is tokenized
    tokens: tuple[str, ...] = field(repr=False)
    roles: tuple[str, ...] = field(repr=False)
    spans: dict[str, tuple[int, int]]

    def positions(self, role: str) -> tuple[int, ...]:
        """Return the positions of a role; "last" is always the last token."""
        if role == "last":
            return (self.last,)
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


def build_prompt(
    model,
    question: str,
    image=None,
    *,
    visual_constraint: str,
    text_constraint: str | None = None,
    protocol: str = "paper",
) -> Prompt:
    """Put a question and a picture into the model's chat format and find its parts (paper, section 3.1).

    Args:
        model: a `VisionLanguageModel`.
        question: must contain the constraints, in any case.
        image: PIL image, path or None.
        visual_constraint: of several occurrences, the first is taken, whole words before parts of words.
        text_constraint: likewise, but the last.
        protocol: "paper" (the model's own chat format) or "authors" (the released scripts').

    Raises:
        PromptError, TestBedError, ModelError: the question, the image or the protocol cannot be used.
    """
    template, question = in_format(model, question, image is not None, protocol)
    spans = {"constraint": find_phrase(question, visual_constraint, "visual_constraint", last=False)}
    if text_constraint is not None:
        spans["text_constraint"] = find_phrase(question, text_constraint, "text_constraint", last=True)
        if overlap(spans["constraint"], spans["text_constraint"]):
            raise PromptError(
                f"text_constraint {quoted(text_constraint)} overlaps visual_constraint {quoted(visual_constraint)}: "
                "give phrases that stand apart in the question."
            )
    text = template.format(question=question)
    image_inputs, image_text = ({}, "") if image is None else model.read_image(image, protocol)
    ids, members = locate(model, template, question, spans, image_text)
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
        position_ids=model.position_table(ids, image_inputs),
        image_inputs=image_inputs | model.image_marks(ids, image_inputs),
        image_text=image_text,
        tokens=tuple(token_texts(model, ids)),
        roles=tuple(roles),
        spans=spans,
    )


def in_format(model, question: str, has_image: bool, protocol: str = "paper") -> tuple[str, str]:
    """Return the chat format, and the question as it stands in it. Raises PromptError."""
    if has_image and not model.is_multimodal:
        raise PromptError(f"image was given but model {model.name!r} reads text only: leave image out.")
    template = model.prompt_template(image=has_image, protocol=protocol)
    must_be_text("question", question)
    question = normalize(question)
    if not question:
        raise PromptError("question is empty: give the question's text.")
    without_control_tokens(model, "question", question)
    return template, question.rstrip("?").rstrip() if "{question}?" in template else question


def counterparts(prompt: Prompt, other: Prompt, error: type[ValueError] = TraceError) -> tuple[int | None, ...]:
    """Return, for each position of a prompt, the matching one of another prompt, or None.

    Visual tokens and constraints align from the right, because the last token of a phrase is the one that has read all
    of it. Between them align the words that both prompts begin and end with. Raises `error` if image and constraints
    stand in another order.
    """
    shared = [role for role in ("visual", *prompt.spans) if prompt.positions(role) and other.positions(role)]
    phrases = [(token_range(prompt.positions(role)), token_range(other.positions(role))) for role in shared]
    phrases.sort()
    if sorted(phrases, key=lambda pair: pair[1]) != phrases:
        raise error("donor has its image and its constraints in another order than prompt: give one of the same form.")
    aligned: list[int | None] = [None] * len(prompt)
    ids, other_ids = prompt.input_ids.tolist(), other.input_ids.tolist()
    begin, other_begin = 0, 0
    for (start, stop), (other_start, other_stop) in (*phrases, ((len(prompt),) * 2, (len(other),) * 2)):
        words, others = ids[begin:start], other_ids[other_begin:other_start]
        before = common_prefix(words, others)
        after = common_prefix(words[before:][::-1], others[before:][::-1])
        for n in range(before):
            aligned[begin + n] = other_begin + n
        for n in range(1, after + 1):
            aligned[start - n] = other_start - n
        for n in range(1, min(stop - start, other_stop - other_start) + 1):
            aligned[stop - n] = other_stop - n
        begin, other_begin = stop, other_stop
    return tuple(aligned)


def resolve_positions(prompt: Prompt, positions, error: type[Exception] = PromptError) -> tuple[int, ...]:
    """Return the sorted positions of indices and role names (one or several), without duplicates."""
    if isinstance(positions, (str, Integral)) or not hasattr(positions, "__iter__"):
        positions = (positions,)
    chosen = set()
    for entry in positions:
        if isinstance(entry, str):
            if entry not in TOKEN_ROLES:
                known = ", ".join(TOKEN_ROLES)
                raise error(f"positions names the unknown role {quoted(entry)}: use {known} or indices.")
            chosen.update(prompt.positions(entry))
        elif isinstance(entry, bool) or not hasattr(entry, "__index__"):
            raise error(f"positions holds {quoted(entry)}: use indices, whole numbers, or names of roles.")
        elif not -len(prompt) <= entry < len(prompt):  # pyright: ignore[reportOperatorIssue]
            raise error(f"positions holds {entry}, but the prompt has {len(prompt)} tokens.")
        else:
            chosen.add(int(entry) % len(prompt))
    return tuple(sorted(chosen))


def answer_tokens(
    model, prompt: Prompt, answer: str, name: str = "answer", error: type[ValueError] = TraceError
) -> list[int]:
    """Return the token ids of an answer that follows the prompt, with leading blank tokens.

    Raises `error` about the argument `name` if the answer has no token of its own or holds a control token.
    """
    answer = answer.strip()
    without_control_tokens(model, name, answer, error)
    before = prompt.input_ids.tolist()
    ids = model.tokenize(prompt.text + model.answer_joint(prompt.protocol) + answer, prompt.image_text)[0]
    if not answer or ids[: len(before)] != before or len(ids) == len(before):
        raise error(
            f"{name} {quoted(answer)} has no tokens of its own behind the prompt: give the words of the answer."
        )
    return ids[len(before) :]


def answer_token_ids(model, prompt: Prompt, answer: str | Iterable[int], error: type[ValueError]) -> list[int]:
    """Return the token ids of an answer that is given as text or as ids.

    Raises TraceError as `answer_tokens`, and `error` for ids that the vocabulary lacks or an empty list.
    """
    if isinstance(answer, str):
        return answer_tokens(model, prompt, answer)
    ids = list(check_token_ids(model, "answer", answer, error))
    if not ids:
        raise error("answer holds no token: give a text or token ids, or leave it out for the model's own.")
    return ids
