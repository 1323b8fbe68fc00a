"""The chat format of a model: what its family declares, checked against what its checkpoint says of itself.

A prompt in another format than the one that a model was tuned on is answered worse, and nothing else shows it.
"""

from __future__ import annotations

from jinja2 import TemplateError

from .checkpoints import ModelError
from .families import VICUNA, Family

IMAGE = "<image>"  # how a format names the picture, whatever the tokenizer calls it


def chat_format(processor, family: Family, given: str | None, name: str) -> str:
    """The format with `{question}`, and with `<image>` if the model is multimodal.

    given: one that the user asks for, taken as it is; None or empty for the family's, which the checkpoint's own chat
    template must then agree with, or for the checkpoint's own where the family declares none. Raises ModelError.
    """
    declared, own = given or family.prompt, own_format(processor, family.is_multimodal)
    if not declared and own is None:
        raise ModelError(
            f"model {name!r} has no chat template for a question about a picture: pass its format as prompt, such "
            f"as {VICUNA!r}."
        )
    declared = declared or own
    if declared.count("{question}") != 1 or declared.count(IMAGE) > 1:
        raise ModelError(f"prompt {declared!r} must hold {{question}} once, and {IMAGE} at most once.")
    if not family.is_multimodal:
        return declared.replace(IMAGE, "")
    if IMAGE not in declared:
        raise ModelError(f"prompt {declared!r} lacks {IMAGE}, which stands for the picture: put it in.")
    if own is not None and own != declared and declared == family.prompt:
        raise ModelError(
            f"model {name!r} was tuned on the chat format {own!r}, but models of its architecture are asked as "
            f"{declared!r}: pass the one that you mean as prompt."
        )
    return declared


def own_format(processor, multimodal: bool) -> str | None:
    """The format that the checkpoint's chat template makes of one question, None where it has none (or an odd one)."""
    if getattr(processor, "chat_template", None) is None:
        return None
    tokenizer, question = getattr(processor, "tokenizer", processor), {"type": "text", "text": "{question}"}
    content = [{"type": "image"}, question] if multimodal else question["text"]
    try:
        text = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
    except (TemplateError, ValueError, TypeError):
        return None
    if tokenizer.bos_token:
        text = text.removeprefix(tokenizer.bos_token)  # the tokenizer writes it itself
    if multimodal:
        text = text.replace(tokenizer.image_token if hasattr(tokenizer, "image_token") else IMAGE, IMAGE)
    usable = text.count("{question}") == 1 and text.count(IMAGE) == int(multimodal)
    return text.rstrip(" ") if usable else None
