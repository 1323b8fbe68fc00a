"""The study behind Figures 5 and 15 to 17: contributions and knockouts of the questions of a test bed.

Questions with right and with wrong answers both have contributions, because the figures compare them. The model answers
in words, and its whole answer is judged.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
import torch

from ..engine.forward import in_session
from ..engine.runs import clean_request, clean_run
from ..engine.windows import Execution, window_spans
from ..errors import AttentionError
from ..models.model import VisionLanguageModel
from ..prompts.prompt import Prompt
from ..prompts.tokens import MAX_ANSWER_TOKENS
from ..studies.conditions import Conditions, clean_prompt
from ..studies.loop import DEFAULT_RUN, ITEM_COLUMNS, QuestionResult, RunOptions, question_loop
from ..testbed import Item
from ..testbed.answers import accuracy, is_right
from ..text import list_reasons
from .contributions import (
    CONSTRAINT_TO_LAST,
    FLOWS,
    VISUAL_TO_CONSTRAINT,
    attention_contributions,
    check_weights,
    contributions_from_cache,
)
from .knockout import attention_knockout, flow_edges

# Parts of the flow visual -> constraint that are blocked by themselves: the 5 % of a question's visual tokens with the
# largest contributions, all others, and a random 5 % of the others.
SUBSETS = tuple(f"{which} {VISUAL_TO_CONSTRAINT}" for which in ("top", "other", "drawn"))
TOP = 0.05
_FLOW_COLUMNS = ["id", "part", "flow", "layer", "position", "token", "role", "norm", "share"]
_BLOCK_COLUMNS = ["id", "part", "flow", "window", "layer", "p_blocked", "drop"]


@dataclass(frozen=True)
class AttentionStudy:
    """Contributions and knockouts of many questions.

    Attributes:
        contributions: one row per question, flow, layer and source token. Columns id, part, flow (of `FLOWS`), layer,
            position, token, role ("visual", "constraint", "constraint_last"), norm (||a_ij|| of Eq. 1, i the last token
            of the flow's target), share (norm over the sum of norms of all tokens that i reads in that layer).
        knockouts: of the questions answered right. Columns id, part, flow (`SUBSETS` too), window, layer (its center),
            p_blocked, drop (P_clean - P_blocked of the answer). The window of all layers has one row per flow.
        questions: one row per question. Columns id, part, constraints, question, entity, relation, split, style, answer
            (the model's), expected (the canonical right answer), accuracy (0 to 1, see `testbed.answers`), correct,
            confidence (the probability of the answer's first visible token), answered, reason (why not), p_clean (the
            confidence of a right answer), knockout_reason (the fault, if a right one has no knockouts).
        n_layers, n_visual: layers and visual tokens of the model.
        window: of the knockouts.
        model: its name.
    """

    contributions: pd.DataFrame
    knockouts: pd.DataFrame
    questions: pd.DataFrame
    n_layers: int
    n_visual: int
    window: int
    model: str = ""

    def summary(self) -> pd.DataFrame:
        """Return, by part, the numbers of asked, answered and right questions, reasons, and the median confidence."""
        rows = []
        for part, group in self.questions.groupby("part", sort=False):
            answered = group[group["answered"]]
            rows.append({
                "part": part, "asked": len(group), "answered": len(answered), "right": int(answered["correct"].sum()),
                "left out": list_reasons([*group["reason"], *group["knockout_reason"]]),
                "median confidence": answered["confidence"].median(),
            })
        return pd.DataFrame(rows)


def check_comparable(model: VisionLanguageModel) -> None:
    """Raise AttentionError for a model whose contributions cannot be computed, or compared between images."""
    check_weights(model)
    if model.n_image_tokens is None:
        raise AttentionError(
            f"model {model.name!r} makes as many visual tokens of an image as it is large, so those of different "
            "images do not correspond: give image_side, such as 448, to which every picture is then resized."
        )


def attention_study(
    model: VisionLanguageModel, testbed: Iterable[Item], *, flows: Iterable[str] = tuple(FLOWS),
    knockouts: bool = False, window: int = 3, protocol: str = "paper", max_answer_tokens: int = MAX_ANSWER_TOKENS,
    run: RunOptions = DEFAULT_RUN,
) -> AttentionStudy:
    """Answer every item and compute its contributions, and the knockouts of right answers.

    A question is one request, and two more for its knockouts.

    Args:
        model: the model. A text-only model is asked by name and has only the flow "constraint -> last".
        flows: of `FLOWS`.
        knockouts: whether to block the flows of questions answered right.
        window: of the knockouts, see `attention_knockout`.
        protocol: "paper" or "authors", of the prompt.
        max_answer_tokens: length at which an answer is cut.

    Raises:
        AttentionError: a flow is unknown, or the model cannot have it.
        TraceError: the window does not fit the model.
        ParameterError, RunStopped, NDIFError: as `question_loop`.
    """
    flows = _possible(model, list(flows))
    check_comparable(model)
    window_spans(window, "centered", model.n_layers)  # refused now, not at every question
    remote = model.runs_on(run.remote)
    settings = {"flows": flows, "max_answer_tokens": max_answer_tokens, "remote": remote, "protocol": protocol}
    conditions = Conditions(protocol)
    results = question_loop(
        model, testbed, partial(_contributions_of, model, conditions, settings),
        key=settings | {"table": "attention_contributions", "version": 2}, purpose=("answer", "answered"), run=run,
    )
    questions = _questions(results)
    blocked = []
    if knockouts and questions["correct"].any():
        right = set(questions.loc[questions["correct"], "id"])
        settings = {"flows": flows, "window": window, "remote": remote, "protocol": protocol}
        blocked = question_loop(
            model, [result.item for result in results if result.item.id in right],
            partial(_knockouts_of, model, conditions, settings),
            key=settings | {"table": "attention_knockouts", "version": 2, "top": TOP}, purpose=("block", "blocked"),
            run=replace(run, shard="", required=False, label=f"{run.label} knockouts".strip()),
        )
    faults = {result.item.id: f"knockouts {result.reason}" for result in blocked if result.reason}
    questions["knockout_reason"] = [faults.get(name, "") for name in questions["id"]]
    return AttentionStudy(
        contributions=_tables(results, _FLOW_COLUMNS), knockouts=_tables(blocked, _BLOCK_COLUMNS), questions=questions,
        n_layers=model.n_layers, n_visual=model.n_image_tokens or 0, window=window, model=model.name,
    )


def _possible(model: VisionLanguageModel, flows: list[str]) -> list[str]:
    """Return the flows that the model can have."""
    for flow in flows:
        if flow not in FLOWS:
            raise AttentionError(f"flows names {flow!r}: use {', '.join(map(repr, FLOWS))}.")
    possible = [flow for flow in flows if model.is_multimodal or "visual" not in FLOWS[flow]]
    if not possible:
        raise AttentionError(
            f"flows names none that {model.name!r} has, which sees no image: use {CONSTRAINT_TO_LAST!r}, or name a "
            "multimodal model."
        )
    return possible


def _contributions_of(model: VisionLanguageModel, conditions: Conditions, settings: dict, item: Item) -> pd.DataFrame:
    """Return the table stored for one question: the answer, with one row per flow, layer and source token."""
    prompt = clean_prompt(model, item, conditions)
    edges = flow_edges(prompt, {flow: FLOWS[flow] for flow in settings["flows"]})
    queries = tuple(sorted({targets[-1] for targets, _ in edges.values()}))
    request = clean_request(model, prompt, min(queries)) | {
        "max_answer_tokens": settings["max_answer_tokens"], "queries": queries, "keys": tuple(range(len(prompt))),
        "layers": tuple(range(model.n_layers)), "also": (),
    }
    found = in_session(model.traced, answer_and_contributions, request, settings["remote"])
    norms = found["norms"].numpy()  # [layers, queries, T]
    shares = norms / norms.sum(-1, keepdims=True)
    frames = []
    for flow, (targets, sources) in edges.items():
        row = queries.index(targets[-1])
        sources = np.array([source for source in sources if source < targets[-1]])
        layer, source = np.indices((model.n_layers, len(sources))).reshape(2, -1)
        roles = [f"{role}_last" if p == prompt.constraint[-1] else role
                 for p, role in ((p, prompt.roles[p]) for p in sources)]
        frames.append(pd.DataFrame({
            "flow": flow, "layer": layer, "position": sources[source],
            "token": np.array([prompt.tokens[p] for p in sources], dtype=object)[source],
            "role": np.array(roles, dtype=object)[source],
            "norm": norms[layer, row, sources[source]], "share": shares[layer, row, sources[source]],
        }))
    answer = model.decode(found["answer_ids"])
    return pd.concat(frames, ignore_index=True).assign(answer=answer, confidence=found["p_clean"], reason="")


def answer_and_contributions(lm, request: dict) -> dict:
    """Return {"answer_ids", "p_clean", "norms" [layers, queries, keys]} of one clean run; runs where the weights are.

    request: as for `engine.runs.clean_run` and `contributions_from_cache`.
    """
    with torch.no_grad():
        clean = clean_run(lm, request)
        return {name: clean[name] for name in ("answer_ids", "p_clean")} | contributions_from_cache(lm, request, clean)


def _knockouts_of(model: VisionLanguageModel, conditions: Conditions, settings: dict, item: Item) -> pd.DataFrame:
    """Return the table stored for one question: one row per flow and window."""
    prompt, remote = clean_prompt(model, item, conditions), settings["remote"]
    flows = {flow: FLOWS[flow] for flow in settings["flows"]}
    if VISUAL_TO_CONSTRAINT in flows:
        found = attention_contributions(model, prompt, queries=prompt.constraint[-1], keys="visual", remote=remote)
        flows |= _subsets(prompt, found.norms[:, 0], item.id)
    found = attention_knockout(
        model, prompt, flows=flows, window=settings["window"], execution=Execution(remote=remote)
    )
    return found.to_frame().assign(reason="")


def _subsets(prompt: Prompt, norms: np.ndarray, question: str) -> dict[str, tuple]:
    """Return SUBSETS as flows, by the norms [layers, visual tokens] of the layer with the largest ones."""
    ranked = np.argsort(-norms[norms.sum(1).argmax()], kind="stable")
    n = max(1, round(TOP * len(ranked)))
    # The question's id is the seed, so another run draws the same tokens.
    drawn = np.random.default_rng(list(question.encode())).permutation(ranked[n:])[:n]
    chosen = (ranked[:n], ranked[n:], drawn)
    return {
        name: (tuple(prompt.visual[i] for i in tokens), "constraint")
        for name, tokens in zip(SUBSETS, chosen, strict=True)
    }


def _questions(results: list[QuestionResult]) -> pd.DataFrame:
    rows = []
    for result in results:
        row = {"answer": None, "confidence": np.nan} | result.row(["answer", "confidence"])
        row["answered"] = row.pop("used")
        item, answer = result.item, row["answer"]
        row["expected"] = item.answers[0]
        row["accuracy"] = accuracy(answer, item) if row["answered"] else np.nan
        row["correct"] = bool(row["answered"] and is_right(answer, item))
        row["p_clean"] = row["confidence"] if row["correct"] else np.nan
        rows.append(row)
    columns = ["answer", "expected", "accuracy", "correct", "confidence", "answered", "reason", "p_clean"]
    return pd.DataFrame(rows, columns=[*ITEM_COLUMNS, *columns])


def _tables(results: list[QuestionResult], columns: list[str]) -> pd.DataFrame:
    """Return the tables of all used questions as one frame, which may be empty."""
    tables = [result.table.assign(id=result.item.id, part=result.item.part) for result in results if not result.reason]
    if not tables:
        return pd.DataFrame(columns=columns)
    frame = pd.concat(tables, ignore_index=True)[columns]
    return frame.astype(dict.fromkeys({"id", "part", "flow", "token", "role"} & set(columns), "category"))
