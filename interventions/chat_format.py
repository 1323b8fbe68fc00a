"""The chat format of a model: what its family declares, checked against what its checkpoint says of itself.

A prompt in another format than the one that a model was tuned on is answered worse, and nothing else shows it.
"""

from __future__ import annotations

from jinja2 import TemplateError

from .checkpoints import ModelError
from .families import IMAGE, VICUNA, Family

QUESTION = "What is this thing?"  # stands for any


def chat_format(processor, family: Family, given: str | None, name: str) -> str:
    """The format with `{question}`, and with `<image>` if the model is multimodal.

    given: one that the user asks for, taken as it is. None or empty for the family's, which the chat template of a
    multimodal checkpoint must then agree with (text-only models are asked as their multimodal counterparts without the
    picture), or for the checkpoint's own where the family declares none. Raises ModelError.
    """
    own = own_format(processor) if family.is_multimodal and not given else None
    declared = given or family.prompt or own
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
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    try:
        text = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
    except (TemplateError, ValueError, TypeError):
        return None
    if processor.tokenizer.bos_token:
        text = text.removeprefix(processor.tokenizer.bos_token)  # the tokenizer writes it itself
    text = text.replace(getattr(processor, "image_token", IMAGE), IMAGE)
    if text.count(QUESTION) != 1 or text.count(IMAGE) != 1:
        return None
    return text.rstrip(" ").replace("{", "{{").replace("}", "}}").replace(QUESTION, "{question}")


def _check(declared: str, family: Family) -> None:
    """Raises ModelError unless a question can be put into it."""
    try:
        found = declared.format(question=QUESTION).count(QUESTION)
    except (KeyError, IndexError, ValueError):
        raise ModelError(f"prompt {declared!r} has braces of its own: write them as {{{{ and }}}}.") from None
    if found != 1 or declared.count(IMAGE) > 1:
        raise ModelError(f"prompt {declared!r} must hold {{question}} once, and {IMAGE} at most once.")
    if family.is_multimodal and IMAGE not in declared:
        raise ModelError(f"prompt {declared!r} lacks {IMAGE}, which stands for the picture: put it in.")
