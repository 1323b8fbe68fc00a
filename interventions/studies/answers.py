"""A model's own answers to the items of a test bed, stored: all figures that ask a question share its answer."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ..engine.runs import Answer, own_answer
from ..environment import device_of
from ..prompts.tokens import MAX_ANSWER_TOKENS
from ..testbed import Item
from .conditions import Conditions, clean_prompt
from .results import ResultStore


def item_answer(
    model, item: Item, *, protocol: str = "paper", max_answer_tokens: int = MAX_ANSWER_TOKENS,
    results_dir: str | Path = "results", remote: bool | str | None = None,
) -> Answer:
    """Return the model's own answer to an item of a test bed, read from the stored table where there is one.

    Args:
        model: a `VisionLanguageModel`.
        item: the question.
        protocol: the prompt's format, see `Conditions`.
        max_answer_tokens: tokens after which the answer is cut.
        results_dir: the folder of stored results.
        remote: False | True | "local"; None means as the model was loaded.

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
    """Return what determines the table of `item_answer`, besides model and item."""
    settings = {"protocol": protocol, "max_answer_tokens": max_answer_tokens, "remote": model.runs_on(remote)}
    return {"table": "answers", "version": 2} | settings


def answer_table(
    model, protocol: str, max_answer_tokens: int, remote: bool | str | None, item: Item
) -> pd.DataFrame:
    """Compute the one row that `item_answer` stores, for `question_loop`."""
    prompt = clean_prompt(model, item, Conditions(protocol))
    found = own_answer(model, prompt, max_answer_tokens=max_answer_tokens, remote=remote)
    return pd.DataFrame([{"answer": found.text, "answer_ids": list(found.ids), "p": found.p, "reason": ""}])
