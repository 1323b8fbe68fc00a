"""The study behind every tracing figure: trace the questions of a test bed, one stored table per question.

A question is used only if the model's whole answer is right, because the trace shows where *that* answer comes from.
Every question that is left out keeps its reason. Averages are in `averages.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from ..engine.windows import Execution, window_spans
from ..models.model import VisionLanguageModel
from ..prompts.prompt import Prompt
from ..studies.answers import item_answer
from ..studies.conditions import Conditions, clean_prompt, corrupted_prompt
from ..studies.loop import DEFAULT_RUN, ITEM_COLUMNS, RunOptions, question_loop
from ..testbed import Item
from ..testbed.answers import is_right
from ..text import list_reasons
from .causal_trace import KINDS, CausalTrace, Scoring, trace

# Rows of the heat maps. The paper reads effects at the last token of a constraint, which has a row of its own.
SITE_ROLES = (
    "visual", "before", "constraint", "constraint_last", "between", "text_constraint", "text_constraint_last",
    "last",
)
_SITE_COLUMNS = ["id", "part", "kind", "position", "token", "role", "read", "layer", "p_restored", "effect"]
READ_AT = {"constraint_last": "visual constraint", "text_constraint_last": "text constraint",
           None: "corrupted constraint"}


@dataclass(frozen=True)
class TraceStudy:
    """The traces of many questions.

    Attributes:
        sites: one row per site of every used question. Columns id, part, kind, position, token, role (of `SITE_ROLES`),
            read (whether effects are read at this token, the last one of the corrupted constraint), layer, p_restored,
            effect.
        questions: one row per question. Columns id, part, constraints, question, entity, relation, split, style, answer
            (the model's), answer_ids, correct, used, reason, p_clean, p_corrupted, p_restored_<kind> (of the best layer
            at the token that is read).
        n_layers: of the model.
        window, conditions: the settings of the traces.
    """

    sites: pd.DataFrame
    questions: pd.DataFrame
    n_layers: int
    window: int
    conditions: Conditions

    @property
    def window_rule(self) -> str:
        return self.conditions.window_rule

    @property
    def reported(self) -> str:
        return self.conditions.reported

    @property
    def role(self) -> str | None:
        """The role of the tokens that are read; None if it differs between questions."""
        roles = {read_role(self.conditions, kind == "multi") for kind in set(self.questions["constraints"])}
        return roles.pop() if len(roles) == 1 else None

    @property
    def read_at(self) -> str:
        """Where effects are read, for titles and claims."""
        return READ_AT[self.role]

    def only(self, ids: Iterable[str]) -> TraceStudy:
        """Return the study of these questions alone."""
        ids = set(ids)
        return replace(
            self, sites=self.sites[self.sites["id"].isin(ids)], questions=self.questions[self.questions["id"].isin(ids)]
        )

    def summary(self) -> pd.DataFrame:
        """Return, by part, the numbers of asked and used questions, why others were left out, and medians."""
        rows = []
        for part, group in self.questions.groupby("part", sort=False):
            used = group[group["used"]]
            row = {"part": part, "asked": len(group), "used": len(used), "left out": list_reasons(group["reason"])}
            rows.append(row | {f"median {name}": used[name].median() for name in ("p_clean", "p_corrupted")})
        return pd.DataFrame(rows)

    def probabilities(self) -> pd.DataFrame:
        """Return the probabilities of the used questions in each run. Columns id, part, run, p."""
        runs = [column for column in self.questions if column.startswith("p_")]
        used = self.questions[self.questions["used"]]
        return used.melt(["id", "part"], runs, var_name="run", value_name="p")


def trace_study(
    model: VisionLanguageModel, testbed: Iterable[Item], *, window: int = 3,
    kinds: Iterable[str] = KINDS, conditions: Conditions | None = None, min_p_clean: float = 0.1,
    method: str | None = None, only_read: bool = False, run: RunOptions = DEFAULT_RUN,
) -> TraceStudy:
    """Trace every item of a test bed.

    The last visual token and all tokens after it are traced, as in the released scripts: before the first corrupted
    token every effect is exactly 0, so one visual token stands for all.

    Args:
        model: the model. A text-only model is asked about the entity by its name.
        testbed: the items, see `TestBed.select` for a sample.
        window: layers restored together.
        kinds: modules to restore, "mlp", "attention" or both.
        conditions: corruption, window rule, prompt format and reported value. None: the paper's.
        min_p_clean: questions whose right answer is less probable than this are left out.
        method: see `Execution`.
        only_read: trace only the token at which effects are read, the last one of the corrupted constraint.
        run: how the study runs.

    Returns:
        The traces. A question that cannot be used, or that fails, is left out with its reason.

    Raises:
        TraceError: the window does not fit the model.
        ParameterError: no question, or a required question, can be used. If a question failed, its error.
        RunStopped, NDIFError: the machine or the server failed.
    """
    conditions = conditions or Conditions()
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    window_spans(window, conditions.window_rule, model.n_layers)  # refused now, not at every question
    settings = {"window": window, "kinds": kinds, "method": method, "remote": model.runs_on(run.remote)}
    key = settings | conditions.key() | {"table": "trace_study", "version": 2, "min_p_clean": min_p_clean}
    results = question_loop(
        model, testbed, partial(_trace_item, model, conditions, min_p_clean, settings, only_read, run.results_dir),
        key=key | ({"only_read": True} if only_read else {}), purpose=("trace", "traced"), run=run,
    )
    rows, tables = [], []
    for result in results:
        row = {"correct": False} | result.row(["answer", "answer_ids", "correct", "p_clean", "p_corrupted"])
        if row["used"]:
            tables.append(result.table.assign(id=result.item.id, part=result.item.part))
            best = result.table[result.table["read"]].groupby("kind")["p_restored"].max()
            row |= {f"p_restored_{kind}": p for kind, p in best.items()}
        rows.append(row)
    return TraceStudy(_sites(tables), _questions(rows, kinds), model.n_layers, window, conditions)


def read_role(conditions: Conditions, multi: bool) -> str:
    """Return the role of the token to read: the last one of the corrupted constraint, of the visual one if both are."""
    return "text_constraint_last" if multi and conditions.corrupted == "text" else "constraint_last"


def read_position(prompt: Prompt, item: Item, conditions: Conditions) -> int:
    """Return the position in an item's prompt at which its effects are read."""
    return prompt.positions(read_role(conditions, item.constraints == "multi").removesuffix("_last"))[-1]


def _trace_item(
    model, conditions: Conditions, min_p_clean: float, settings: dict, only_read: bool, results_dir: str | Path,
    item: Item,
) -> pd.DataFrame:
    """Return the table stored for one question: its sites, or one row without a site if it is left out."""
    prompt = clean_prompt(model, item, conditions)
    corrupted = corrupted_prompt(model, item, prompt, conditions)
    answer = item_answer(
        model, item, protocol=conditions.protocol, results_dir=results_dir, remote=settings["remote"]
    )
    facts = {"answer": answer.text, "answer_ids": list(answer.ids), "correct": is_right(answer.text, item),
             "reason": "", "p_clean": answer.p, "p_corrupted": np.nan}
    if not facts["correct"]:
        facts["reason"] = f"answered wrongly: {answer.text!r} instead of {item.answers[0]!r}"
    elif answer.p < min_p_clean:
        facts["reason"] = f"P_clean too low: {answer.p:.3f} is below {min_p_clean}"
    if facts["reason"]:
        return pd.DataFrame([facts])
    read = read_position(prompt, item, conditions)
    result = trace(
        model, prompt, corrupted, window=settings["window"], window_rule=conditions.window_rule,
        kinds=settings["kinds"], positions=(read,) if only_read else shown_positions(prompt), answer=answer.ids,
        scoring=Scoring(require_top=False), execution=Execution(settings["method"], remote=settings["remote"]),
    )
    sites = _with_roles(result, prompt, read)
    return sites.assign(**facts | {
        "answer_ids": [facts["answer_ids"]] * len(sites), "p_clean": result.p_clean, "p_corrupted": result.p_corrupted,
    })


def shown_positions(prompt: Prompt) -> tuple[int, ...]:
    """Return the positions that a study traces: the last visual token and all tokens after it.

    If the image comes after the question, all tokens from the first constraint on are traced too.
    """
    image = max(prompt.visual, default=0)
    first = min(image, prompt.constraint[0], *prompt.positions("text_constraint")[:1])
    return tuple(i for i in range(first, len(prompt)) if i == image or prompt.roles[i] != "visual")


def _with_roles(result: CausalTrace, prompt: Prompt, read: int) -> pd.DataFrame:
    """Return the trace's table with the roles of `SITE_ROLES` in place of the prompt's coarser ones."""
    fine = {positions[-1]: f"{role}_last" for role in ("constraint", "text_constraint")
            if (positions := prompt.positions(role))}
    for position, role in enumerate(prompt.roles):
        if role == "other":
            fine[position] = "before" if position < prompt.constraint[0] else "between"
    frame = result.to_frame()
    frame["role"] = [fine.get(p, role) for p, role in zip(frame["position"], frame["role"], strict=True)]
    frame["read"] = frame["position"] == read
    return frame[["kind", "position", "token", "role", "read", "layer", "p_restored", "effect"]]


def _sites(tables: list[pd.DataFrame]) -> pd.DataFrame:
    sites = pd.concat(tables, ignore_index=True)[_SITE_COLUMNS]
    return sites.astype(dict.fromkeys(("id", "part", "kind", "role", "token"), "category"))


def _questions(rows: list[dict], kinds: list[str]) -> pd.DataFrame:
    numbers = ["p_clean", "p_corrupted", *(f"p_restored_{kind}" for kind in kinds)]
    frame = pd.DataFrame(rows, columns=[*ITEM_COLUMNS, "answer", "answer_ids", "correct", "used", "reason", *numbers])
    return frame.astype(dict.fromkeys(numbers, float) | {"correct": bool, "used": bool})
