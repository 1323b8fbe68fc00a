"""Answers: how they join a prompt, which of their tokens is scored, and when they are right.

One definition for every figure, study and edit. An answer is *right* by the whole decoded text, as VQA accuracy
compares it (`metrics.answer_accuracy`). Its probability is that of its first token with a visible character, behind
the blank ones before it (`restoration.scored_part`), or of all its tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from ..engine.forward import in_session
from ..engine.runs import clean_request
from ..environment import device_of
from ..errors import TraceError
from ..prompts.prompt import Prompt
from ..prompts.tokens import MAX_ANSWER_TOKENS, check_length, without_control_tokens
from ..statistics import RIGHT, answer_accuracy
from ..testbed import Item
from ..text import quoted
from ..tracing.restoration import clean_run
from .conditions import Conditions, clean_prompt
from .results import ResultStore


@dataclass(frozen=True)
class Answer:
    """What a model says to a prompt.

    ids: its tokens, without the end token; text: the same, decoded, without outer space; p: the probability of its
    first token with a visible character.
    """

    ids: tuple[int, ...]
    text: str
    p: float


def answer_tokens(
    model, prompt: Prompt, answer: str, name: str = "answer", error: type[ValueError] = TraceError
) -> list[int]:
    """Token ids of an answer as they follow the prompt.

    What stands between them is the chat format's: a space, or nothing behind a line break (`model.answer_joint`).

    Args:
        model: a `VisionLanguageModel`.
        prompt: the prompt that the answer follows.
        answer: the answer's text.
        name: the parameter to name in an error.
        error: the error to raise.

    Returns:
        The ids, blank ones at the beginning included.

    Raises:
        error: the answer has no token of its own behind the prompt, or holds a control token.
    """
    answer = answer.strip()
    without_control_tokens(model, name, answer, error)
    before = prompt.input_ids.tolist()
    ids = model.tokenize(prompt.text + model.answer_joint(prompt.protocol) + answer, len(prompt.visual))[0]
    if not answer or ids[: len(before)] != before or len(ids) == len(before):
        raise error(
            f"{name} {quoted(answer)} has no tokens of its own behind the prompt: give the words of the answer."
        )
    return ids[len(before) :]


def own_answer(
    model, prompt: Prompt, *, max_answer_tokens: int = MAX_ANSWER_TOKENS, remote: bool | str | None = None
) -> Answer:
    """The model's greedy answer to a prompt, in one request.

    Args:
        model: a `VisionLanguageModel`.
        prompt: what is asked.
        max_answer_tokens: tokens after which the answer is cut.
        remote: False | True | "local"; None = as the model was loaded.

    Returns:
        The answer; the end token, if the model says nothing.

    Raises:
        PromptError: the answer would be longer than what all layers of the model see.
        ModelError, NDIFError: for remote.
    """
    check_length(model, len(prompt), max_answer_tokens)
    request = clean_request(model, prompt, len(prompt) - 1) | {"max_answer_tokens": max_answer_tokens}
    found = in_session(model.traced, read_answer, request, model.runs_on(remote))
    return Answer(tuple(found["answer_ids"]), model.decode(found["answer_ids"]), found["p_clean"])


def read_answer(lm, request: dict) -> dict:
    """{"answer_ids", "p_clean"} of a clean run; runs where the weights are."""
    with torch.no_grad():
        clean = clean_run(lm, request)
        return {name: clean[name] for name in ("answer_ids", "p_clean")}


def accuracy(answer: str, item: Item) -> float:
    """How right an answer to an item is, from 0 to 1: see `metrics.answer_accuracy`."""
    return answer_accuracy(answer, item.answers, item.annotations)


def is_right(answer: str, item: Item) -> bool:
    """Whether an answer to an item counts as right: the same in every figure."""
    return accuracy(answer, item) >= RIGHT


def is_accepted(answer: str, accepted: Iterable[str]) -> bool:
    """Whether an answer is one of these texts, compared as a whole."""
    return answer_accuracy(answer, accepted) >= RIGHT


def item_answer(
    model, item: Item, *, protocol: str = "paper", max_answer_tokens: int = MAX_ANSWER_TOKENS,
    results_dir: str | Path = "results", remote: bool | str | None = None,
) -> Answer:
    """The model's own answer to an item of a test bed, stored: all figures that ask the same question share it.

    Args:
        model: a `VisionLanguageModel`.
        item: the question.
        protocol: the prompt's format, see `conditions.Conditions`.
        max_answer_tokens: tokens after which the answer is cut.
        results_dir: the folder of stored results.
        remote: None = as the model was loaded; one request where nothing is stored.

    Returns:
        The answer.

    Raises:
        Unusable: the item cannot be asked.
        ModelError, NDIFError: for remote.
    """
    key = model.key() | answers_key(model, protocol, max_answer_tokens, remote) | {"item": item.content()}
    store = ResultStore(results_dir, device_of(model))
    row = store.get_or_compute(key, lambda: answer_table(model, protocol, max_answer_tokens, remote, item)).loc[0]
    return Answer(tuple(map(int, row["answer_ids"])), row["answer"], float(row["p"]))


def answers_key(model, protocol: str, max_answer_tokens: int, remote: bool | str | None) -> dict:
    """What of `item_answer` determines the stored table, besides model and item."""
    told = {"protocol": protocol, "max_answer_tokens": max_answer_tokens, "remote": model.runs_on(remote)}
    return {"table": "answers"} | told


def answer_table(
    model, protocol: str, max_answer_tokens: int, remote: bool | str | None, item: Item
) -> pd.DataFrame:
    """What `item_answer` stores: one row. For `asking.ask`, which asks many items."""
    prompt = clean_prompt(model, item, Conditions(protocol))
    found = own_answer(model, prompt, max_answer_tokens=max_answer_tokens, remote=remote)
    return pd.DataFrame([{"answer": found.text, "answer_ids": list(found.ids), "p": found.p, "reason": ""}])
