"""The chat format of a model: its family's, checked against the checkpoint's chat template.

A model answers worse in a format that it was not tuned on, and no error shows this.
"""

from __future__ import annotations

from jinja2 import TemplateError

from ..errors import ModelError
from ..text import PATH, quoted
from .families import IMAGE, VICUNA, Family

QUESTION, ANSWER = "What is this thing?", "An answer"  # examples, to render chat templates
USER_TURN = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}
TEXT_TURN = {"role": "user", "content": QUESTION}  # of a text-only model
CHATML_TURN = "<|im_start|>assistant"  # the end of some templates; the model then writes the line break


def chat_format(processor, family: Family, given: str | None, name: str) -> str:
    """Return the format with `{question}`, and with `<image>` if the model is multimodal.

    `given` is the user's format, taken as it is. Without it, the family's format is used, and the chat template of a
    multimodal checkpoint must agree with it; a family without a format uses the checkpoint's. Raises ModelError.
    """
    own = None if given or (family.prompt and not family.is_multimodal) else own_format(processor, family)
    declared = (given or family.prompt or own or "").rstrip(" ")  # the space before an answer belongs to the answer
    declared = declared.replace(IMAGE.join(family.wrapper), IMAGE)  # the picture brings its wrapper
    if not declared:
        raise ModelError(
            f"model {name!r} has no chat template for a question{' about a picture' * family.is_multimodal}: pass its "
            f"format as prompt, such as {VICUNA if family.is_multimodal else VICUNA.replace(IMAGE, '')!r}."
        )
    if own is not None and own != declared:
        raise ModelError(
            f"model {name!r} was tuned on the chat format {own!r}, but models of its architecture are asked as "
            f"{declared!r}: pass the one that you mean as prompt."
        )
    _check(declared, family)
    return declared if family.is_multimodal else declared.replace(IMAGE, "")


def own_format(processor, family: Family) -> str | None:
    """Return the checkpoint's chat template as a format for a question (about a picture), or None."""
    if getattr(processor, "chat_template", None) is None:
        return None
    turn = USER_TURN if family.is_multimodal else TEXT_TURN
    text = _rendered(processor, [turn], add_generation_prompt=True)
    if text is None:
        return None
    own = _as_format(processor, family, text).rstrip(" ")
    return own if own.count("{question}") == 1 and own.count(IMAGE) == family.is_multimodal else None


def _rendered(processor, messages: list[dict], **options) -> str | None:
    """Return a conversation in the checkpoint's chat template, None if the template refuses it."""
    try:
        return processor.apply_chat_template(messages, tokenize=False, **options)
    except (TemplateError, ValueError, TypeError):
        return None


def _as_format(processor, family: Family, text: str) -> str:
    """Return a rendered question as a format with `{question}` and `<image>`, which includes the picture's wrapper."""
    tokenizer = getattr(processor, "tokenizer", processor)
    if tokenizer.bos_token:
        text = text.removeprefix(tokenizer.bos_token)  # the tokenizer writes it itself
    begin, end = family.wrapper
    picture = getattr(processor, "image_token", IMAGE)
    text = text.replace(f"{begin}{picture}{end}", IMAGE).replace(picture, IMAGE)
    return text.replace("{", "{{").replace("}", "}}").replace(QUESTION, "{question}")


def answer_joint(processor, family: Family, declared: str) -> str:
    """Return the white space between a prompt in the format `declared` and its answer; may be empty.

    The checkpoint's chat template decides if it makes this format. Otherwise: nothing after a line break, a line break
    after ChatML's bare "assistant", and a space elsewhere.
    """
    if own_format(processor, family) == declared:
        asked, said = (USER_TURN, [{"type": "text", "text": ANSWER}]) if family.is_multimodal else (TEXT_TURN, ANSWER)
        text = _rendered(processor, [asked, {"role": "assistant", "content": said}])
        before = "" if text is None else _as_format(processor, family, text.split(ANSWER)[0])
        between = before.removeprefix(declared)
        if before.startswith(declared) and not between.strip():
            return between.lstrip(" ") if "\n" in between else between  # some write "role " and then the line break
    if declared[-1:].isspace():
        return ""
    return "\n" if declared.endswith(CHATML_TURN) else " "


def _check(declared: str, family: Family) -> None:
    """Raise ModelError unless the format takes one question and at most one picture."""
    try:
        found = declared.format(question=QUESTION).count(QUESTION)
    except (KeyError, IndexError, ValueError):
        raise ModelError(f"prompt {quoted(declared, PATH)} has braces of its own: write {{{{ and }}}}.") from None
    if found != 1 or declared.count(IMAGE) > 1:
        raise ModelError(f"prompt {quoted(declared, PATH)} must hold {{question}} once, and {IMAGE} at most once.")
    if family.is_multimodal and IMAGE not in declared:
        raise ModelError(f"prompt {quoted(declared, PATH)} lacks {IMAGE}, which stands for the picture: put it in.")
