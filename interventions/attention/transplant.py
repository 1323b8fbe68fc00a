"""Flows that are read from another image: does the last token read the answer there, or only something it needs?

A knock-out shows that P(answer) falls without a flow to the last token. There are two possible reasons. What is read
may hold the answer. Or the last token only needs something else there, such as the words of the question. In a
transplant, the last token reads the source as the run of the same words about *another* image had it, and all else is
the question's own run. If the flow carries the answer, the answer about the other image appears.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import pandas as pd

from ..engine.forward import in_session
from ..engine.runs import Answer
from ..engine.windows import default_method
from ..models.model import VisionLanguageModel
from ..statistics import joined
from ..studies.answers import item_answer
from ..studies.conditions import Conditions, clean_prompt
from ..studies.loop import DEFAULT_RUN, RunOptions, question_loop
from ..studies.transplant import answered_others, transplant_shares, verdict
from ..testbed import Item
from .contributions import FLOWS
from .knockout import check_donor, flow_edges, knock_out, knockout_request
from .study import AttentionStudy

COLUMNS = [
    "id", "other", "part", "flow", "p_own", "p_other", "p_blocked_own", "p_blocked_other", "p_clean", "p_donor",
]


def flow_transplants(
    model: VisionLanguageModel, testbed: Iterable[Item], study: AttentionStudy, *, limit: int = 0, seed: int = 0,
    protocol: str = "paper", run: RunOptions = DEFAULT_RUN,
) -> pd.DataFrame:
    """Read the flows to the last token from another image, for the questions that a study has knockouts of.

    Other items are those of `studies.transplant.answered_others`.

    Args:
        model: the model of the study.
        testbed: the items that others are drawn from, with the study's own.
        study: the study.
        limit: questions of each part, the first ones of the study that have another item; 0: all.
        seed: of the choice of other items.
        protocol: of the study.
        run: where tables are stored and whether the model runs remotely; its shard and label are not used.

    Returns:
        One row per question and flow, in all layers. Columns id, other (the other item's id), part, flow; P(own answer)
        and P(other answer) with the flow read from the other image's run (p_own, p_other) and with the flow blocked
        (p_blocked_own, p_blocked_other); p_clean, P(own answer) of the clean run; p_donor, P(other answer) of the other
        image's own run.
    """
    by_id, remote = {item.id: item for item in testbed}, model.runs_on(run.remote)

    def own(item: Item) -> Answer:
        return item_answer(model, item, protocol=protocol, results_dir=run.results_dir, remote=remote)

    asked = [by_id[name] for name in dict.fromkeys(study.knockouts["id"].astype(str))]
    others = answered_others(model, asked, by_id.values(), own, protocol=protocol, limit=limit, seed=seed, run=run)
    flows = [flow for flow in dict.fromkeys(study.knockouts["flow"].astype(str)) if _ends_last(flow)]

    def item_key(item: Item) -> dict:
        other, answer = others[item.id]
        return {"answer_ids": list(own(item).ids), "other": other.content(), "other_answer_ids": list(answer.ids)}

    settings = {"flows": flows, "remote": remote, "protocol": protocol}
    results = question_loop(
        model, [item for item in asked if item.id in others], partial(_read_item, model, settings, own, others),
        key=settings | {"table": "flow_transplant", "version": 1}, item_key=item_key,
        purpose=("transplant", "transplanted"), run=RunOptions(run.results_dir, label="transplant"), allow_none=True,
    )
    for result in results:
        if result.error is not None:
            print(f"{result.item.id}: no transplant. {result.error}", flush=True)
    frames = [result.table.assign(id=result.item.id, part=result.item.part) for result in results if not result.reason]
    return joined(frames, COLUMNS)


def flow_transplant_shares(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the shares of the drop P_clean - P_blocked that carry the answer and that do not, by part and flow.

    `fact` is the mean of P(other | flow of the other image) - P(other | blocked), divided by the drop: what is read
    carries the answer. `word` is the mean of P(own | flow of the other image) - P(own | blocked), divided by the drop:
    what is read is needed, but that of another image will do. See `transplant_shares`.

    Args:
        frame: from `flow_transplants`.

    Returns:
        The columns of `transplant_shares` with flow in place of kind and layer, and verdict. `effect` is the drop.
    """
    names = {"flow": "kind", "p_blocked_own": "p_corrupted_own", "p_blocked_other": "p_corrupted_other"}
    shares = transplant_shares(frame.rename(columns=names).assign(p_restored=frame["p_clean"], layer=0))
    verdicts = [verdict(row) for _, row in shares.iterrows()]
    return shares.drop(columns="layer").rename(columns={"kind": "flow"}).assign(verdict=verdicts)


def _ends_last(flow: str) -> bool:
    return flow in FLOWS and FLOWS[flow][1] == "last"


def _read_item(model: VisionLanguageModel, settings: dict, own, others: dict, item: Item) -> pd.DataFrame:
    """Return the table stored for one question: probabilities by flow."""
    (other, answer), conditions = others[item.id], Conditions(settings["protocol"])
    prompt, donor = (clean_prompt(model, asked, conditions) for asked in (item, other))
    edges = flow_edges(prompt, {flow: FLOWS[flow] for flow in settings["flows"]})
    check_donor(prompt, donor, edges)
    answers = [list(own(item).ids), list(answer.ids)]
    request = knockout_request(model, prompt, list(edges.values()), [], answers, donor) | {  # all layers alone
        "method": default_method(model.dtype), "max_packed_tokens": None,
    }
    ours = in_session(model.traced, knock_out, request, settings["remote"])
    [theirs] = ours["other_answers"]
    return pd.DataFrame({
        "other": other.id, "flow": list(edges), "p_own": ours["transplanted"][1:].numpy(),
        "p_other": theirs["transplanted"][1:].numpy(), "p_blocked_own": ours["blocked"][1:].numpy(),
        "p_blocked_other": theirs["blocked"][1:].numpy(), "p_clean": float(ours["blocked"][0]),
        "p_donor": theirs["p_donor"], "reason": "",
    })
