"""The chat format of a model: what its family declares, checked against what its checkpoint says of itself.

A prompt in another format than the one that a model was tuned on is answered worse, and nothing else shows it.
"""

from __future__ import annotations

from jinja2 import TemplateError

from ..errors import ModelError
from ..text import PATH, quoted
from .families import IMAGE, VICUNA, Family

QUESTION = "What is this thing?"  # stands for any
ANSWER = "An answer"  # likewise
CHATML_TURN = "<|im_start|>assistant"  # as some templates end, whose models then begin with the line break


def chat_format(processor, family: Family, given: str | None, name: str) -> str:
    """The format with `{question}`, and with `<image>` if the model is multimodal.

    given: one that the user asks for, taken as it is. None or empty for the family's, which the chat template of a
    multimodal checkpoint must then agree with (text-only models are asked as their multimodal counterparts without the
    picture), or for the checkpoint's own where the family declares none. Raises ModelError.
    """
    own = own_format(processor) if family.is_multimodal and not given else None
    declared = (given or family.prompt or own or "").rstrip(" ")  # the space before an answer belongs to the answer
    if not declared:
        raise ModelError(
            f"model {name!r} has no chat template for a question about a picture: pass its format as prompt, such "
            f"as {VICUNA!r}."
        )
    if own is not None and own != declared:
        raise ModelError(
            f"model {name!r} was tuned on the chat format {own!r}, but models of its architecture are asked as "
            f"{declared!r}: pass the one that you mean as prompt."
        )
    _check(declared, family)
    return declared if family.is_multimodal else declared.replace(IMAGE, "")


def own_format(processor) -> str | None:
    """The format that the checkpoint's chat template makes of a question about a picture, None where it makes none."""
    if getattr(processor, "chat_template", None) is None:
        return None
    text = _rendered(processor, _asked(), add_generation_prompt=True)
    if text is None:
        return None
    told = _as_format(processor, text).rstrip(" ")
    return told if told.count("{question}") == 1 and told.count(IMAGE) == 1 else None


def _asked() -> list[dict]:
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]


def _rendered(processor, messages: list[dict], **options) -> str | None:
    """A conversation in the checkpoint's chat template, None where it cannot be put into it."""
    try:
        return processor.apply_chat_template(messages, tokenize=False, **options)
    except (TemplateError, ValueError, TypeError):
        return None


def _as_format(processor, text: str) -> str:
    """A rendered question as a format with `{question}` and `<image>`."""
    tokenizer = getattr(processor, "tokenizer", processor)  # of a text-only model there is nothing else
    if tokenizer.bos_token:
        text = text.removeprefix(tokenizer.bos_token)  # the tokenizer writes it itself
    text = text.replace(getattr(processor, "image_token", IMAGE), IMAGE)
    return text.replace("{", "{{").replace("}", "}}").replace(QUESTION, "{question}")


def answer_joint(processor, declared: str) -> str:
    """What a chat format puts between its prompt and the answer.

    Read off the checkpoint's chat template where that makes this format: it says where an assistant's turn begins.
    Else nothing where the format ends in a line break, a line break where it ends in ChatML's bare "assistant", and a
    space elsewhere.

    Args:
        processor: the checkpoint's processor, or a tokenizer.
        declared: the format with `{question}` that the model is asked in.

    Returns:
        White space, or nothing.
    """
    if own_format(processor) == declared:
        told = _rendered(processor, [*_asked(), {"role": "assistant", "content": [{"type": "text", "text": ANSWER}]}])
        before = "" if told is None else _as_format(processor, told.split(ANSWER)[0])
        between = before.removeprefix(declared)
        if before.startswith(declared) and not between.strip():
            return between.lstrip(" ") if "\n" in between else between  # some write "role " and then the line break
    if declared[-1:].isspace():
        return ""
    return "\n" if declared.endswith(CHATML_TURN) else " "


def _check(declared: str, family: Family) -> None:
    """Raises ModelError unless a question can be put into it."""
    try:
        found = declared.format(question=QUESTION).count(QUESTION)
    except (KeyError, IndexError, ValueError):
        raise ModelError(f"prompt {quoted(declared, PATH)} has braces of its own: write {{{{ and }}}}.") from None
    if found != 1 or declared.count(IMAGE) > 1:
        raise ModelError(f"prompt {quoted(declared, PATH)} must hold {{question}} once, and {IMAGE} at most once.")
    if family.is_multimodal and IMAGE not in declared:
        raise ModelError(f"prompt {quoted(declared, PATH)} lacks {IMAGE}, which stands for the picture: put it in.")
