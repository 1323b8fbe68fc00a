"""The experiment of Figures 3, 4 and 8 to 13: trace the questions of a test bed, average by role and layer.

A notebook, a script and a test all call `trace_study`. A question counts only if the model answers it right
(the clean run's top token begins an accepted answer), because what is traced is where *that* answer comes
from; every question left out keeps its reason. Averages are over questions: tokens of one role are averaged
within their question first, so that a long question weighs no more than a short one.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from .causal_trace import CausalTrace, trace, window_spans
from .metrics import bootstrap_interval
from .model import VisionLanguageModel
from .parameters import ParameterError
from .prompt import CorruptedPrompt, Prompt, PromptError, build_prompt, corrupt
from .results import ResultStore
from .testbed import Item, TestBedError, load_image

# Rows of the heat maps. The paper reads effects at the last token of a constraint: it has a row of its own.
ROLES = (
    "visual", "before", "constraint", "constraint_last", "between", "text_constraint", "text_constraint_last",
    "last",
)
_REPORT_EVERY = 30  # seconds between progress lines; bars break papermill's log
_ITEM_COLUMNS = ["id", "part", "constraints", "question", "entity", "relation", "split", "style"]
_SITE_COLUMNS = ["id", "part", "kind", "position", "token", "role", "layer", "p_restored", "effect"]


@dataclass(frozen=True)
class Protocol:
    """What the paper and the released scripts do differently in a trace."""

    window_rule: str
    repeat_token: str | None  # replaces every constraint token; None: the test bed's fluent replacement
    reported: str  # the column that the figures show


PROTOCOLS = {
    "paper": Protocol("centered", None, "effect"),
    "authors": Protocol("radius", "Paris", "p_restored"),
}


@dataclass(frozen=True)
class TraceStudy:
    """Two tidy frames, and the settings that a figure must name.

    `sites`, one row a site of every question used: id, part, kind, position, token, role (of `ROLES`), layer,
    p_restored, effect. `questions`, one row a question asked: id, part, constraints, question, entity,
    relation, split, style, answer (the model's), correct, used, reason, p_clean, p_corrupted,
    p_restored_<kind> (the best layer at the visual constraint's last token).
    """

    sites: pd.DataFrame
    questions: pd.DataFrame
    n_layers: int
    window: int
    window_rule: str
    reported: str

    def summary(self) -> pd.DataFrame:
        """By part: questions asked and used, why the others were not, medians over those used."""
        rows = []
        for part, group in self.questions.groupby("part", sort=False):
            used = group[group["used"]]
            row = {"part": part, "asked": len(group), "used": len(used), "left out": _reasons(group)}
            rows.append(row | {f"median {name}": used[name].median() for name in ("p_clean", "p_corrupted")})
        return pd.DataFrame(rows)

    def probabilities(self) -> pd.DataFrame:
        """Clean, corrupted and best restored probabilities of the questions used, long: id, part, run, p."""
        runs = [column for column in self.questions if column.startswith("p_")]
        used = self.questions[self.questions["used"]]
        return used.melt(["id", "part"], runs, var_name="run", value_name="p")


def trace_study(
    model: VisionLanguageModel, testbed: Iterable[Item], *, window: int = 3, window_rule: str | None = None,
    kinds: Iterable[str] = ("mlp", "attention"), protocol: str = "paper", min_p_clean: float = 0.1,
    results_dir: str | Path = "results", required: bool = False, method: str | None = None,
    remote: bool | str | None = None,
) -> TraceStudy:
    """Trace every item of `testbed` (see `TestBed.select` for a sample), one stored table a question.

    protocol: sets corruption, window rule and reported value (`PROTOCOLS`); window_rule overrides its own.
    remote: None = as the model was loaded.
    Traced are the last visual token and all that follows, as in the released scripts: before the first
    corrupted token every effect is exactly 0, so one visual token stands for all.
    An item that cannot be used is left out with its reason, unless `required`: then it raises ParameterError.
    A failure costs its own question too; only if no question could be used, something is raised.
    """
    preset = PROTOCOLS[protocol]
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    window_spans(window, window_rule or preset.window_rule, model.n_layers)  # refused now, not at every question
    remote = model.remote if remote is None else remote
    settings = {
        "window": window, "window_rule": window_rule or preset.window_rule, "kinds": kinds,
        "method": method, "remote": remote,
    }
    key = settings | {
        "table": "trace_study",
        # Weights made in memory have no revision: nothing stored is ever taken for theirs.
        "model": [model.name, model.revision if model.revision != "in-memory" else uuid.uuid4().hex],
        "dtype": str(model.dtype),  # decides which method None is
        "protocol": protocol, "repeat_token": preset.repeat_token, "min_p_clean": min_p_clean,
    }
    store = ResultStore(results_dir)
    items, rows, tables, failure, reported_at = list(testbed), [], [], None, time.monotonic()
    for item in items:
        row = {name: getattr(item, name) for name in _ITEM_COLUMNS}
        try:
            table = store.get_or_compute(
                key | {"item": item.content()},
                lambda item=item: _trace_item(model, item, protocol, min_p_clean, settings),
            )
            row |= table.loc[0, ["answer", "correct", "reason", "p_clean", "p_corrupted"]].to_dict()
        except _Unusable as error:
            row |= {"correct": False, "reason": str(error)}
        except Exception as error:  # one question's fault must not cost the others
            failure = failure or error
            row |= {"correct": False, "reason": f"failed: {error!r}"}
        row["used"] = row["reason"] == ""
        if row["used"]:
            tables.append(table.assign(id=item.id, part=item.part))
            row |= _best_restored(table)
        elif required:
            raise ParameterError(
                f"Parameter 'items': question {item.id!r} cannot be traced, {row['reason'].rstrip('.')}: "
                "name another one, or leave items empty to sample."
            )
        rows.append(row)
        if time.monotonic() - reported_at > _REPORT_EVERY and len(rows) < len(items):
            print(f"{len(rows)} of {len(items)} questions, {len(tables)} of them used", flush=True)
            reported_at = time.monotonic()
    questions = _questions(rows, settings["kinds"])
    if not tables:
        if failure is not None:
            raise failure
        raise ParameterError(
            f"Parameter 'model': {model.name!r} gives nothing to trace on {len(items)} questions "
            f"({_reasons(questions)}): choose another model or test bed, or a larger limit."
        )
    print(f"{len(items)} questions asked, {len(tables)} used", flush=True)
    return TraceStudy(
        _sites(tables), questions, model.n_layers, window, settings["window_rule"], preset.reported
    )


def by_role_layer(sites: pd.DataFrame, quantity: str = "effect") -> pd.DataFrame:
    """Mean effect (or p_restored) by part, kind, role and layer, with bootstrap intervals over questions.

    `sites` is that of a `TraceStudy`. Returns part, kind, role, layer, <quantity>, low, high, n (questions
    that have the role), sorted so. Tokens of one role are averaged within their question; the row to read,
    `constraint_last`, is a single token.
    """
    columns = ["part", "kind", "role", "layer", quantity, "low", "high", "n"]
    found = sites.dropna(subset=[quantity])
    keys = ["part", "role", "id", "kind", "layer"]
    means = found.groupby(keys, observed=True, sort=False)[quantity].mean().unstack(["kind", "layer"])
    frames = []
    for (part, role), table in means.groupby(["part", "role"], observed=True, sort=False):
        value, low, high = bootstrap_interval(table.to_numpy())  # each [kinds x layers]
        cells = table.columns.to_frame(index=False)
        frames.append(
            cells.assign(part=part, role=role, **{quantity: value, "low": low, "high": high, "n": len(table)})
        )
    result = pd.concat(frames, ignore_index=True)[columns].astype({"kind": object})
    order = {name: list(dict.fromkeys(sites[name])) for name in ("part", "kind")} | {"role": ROLES}

    def rank(column: pd.Series) -> pd.Series:
        return column.map(order[column.name].index) if column.name in order else column

    return result.sort_values(columns[:4], key=rank, ignore_index=True)


class _Unusable(Exception):
    """An item that is left out before anything is computed; the message is the reason."""


def _trace_item(model, item: Item, protocol: str, min_p_clean: float, settings: dict) -> pd.DataFrame:
    """The table stored for one question: its sites, or one row without a site if it is left out."""
    prompt, corrupted = _prompts(model, item, protocol)
    positions = range(min(max(prompt.visual, default=0), corrupted.first_corrupted), len(prompt))
    result = trace(
        model, prompt, corrupted, positions=positions, accepted=item.answers, min_p_clean=min_p_clean, **settings
    )
    facts = {
        "answer": result.answer_text, "correct": result.correct, "reason": "",
        "p_clean": result.p_clean, "p_corrupted": result.p_corrupted,
    }
    if not result.correct:
        facts["reason"] = f"answered wrongly: {result.answer_text!r} instead of {item.answers[0]!r}"
    elif result.p_clean < min_p_clean:
        facts["reason"] = f"P_clean too low: {result.p_clean:.3f} is below {min_p_clean}"
    if facts["reason"]:
        return pd.DataFrame([facts])
    return _with_roles(result, prompt).assign(**facts)


def _prompts(model, item: Item, protocol: str) -> tuple[Prompt, CorruptedPrompt]:
    """The clean and the corrupted prompt; `_Unusable` says which step refused the item."""
    step = "image unreadable"
    try:
        image = None if item.image is None else load_image(item.image)
        step = "constraint not found"
        prompt = build_prompt(
            model, item.question, image, visual_constraint=item.visual_constraint,
            text_constraint=item.text_constraint, protocol=protocol,
        )
        step = "replacement refused"
        repeat_token = PROTOCOLS[protocol].repeat_token
        if repeat_token is not None:
            return prompt, corrupt(model, prompt, repeat_token=repeat_token)
        return prompt, corrupt(
            model, prompt, visual_replacement=item.visual_replacement, text_replacement=item.text_replacement
        )
    except (TestBedError, PromptError) as error:
        raise _Unusable(f"{step}: {error}") from error


def _with_roles(result: CausalTrace, prompt: Prompt) -> pd.DataFrame:
    """The trace's table, with the roles of `ROLES` in place of the prompt's coarser ones."""
    fine = {positions[-1]: f"{role}_last" for role in ("constraint", "text_constraint")
            if (positions := prompt.positions(role))}
    for position, role in enumerate(prompt.roles):
        if role == "other":
            fine[position] = "before" if position < prompt.constraint[0] else "between"
    frame = result.to_frame()
    frame["role"] = [fine.get(p, role) for p, role in zip(frame["position"], frame["role"], strict=True)]
    return frame[["kind", "position", "token", "role", "layer", "p_restored", "effect"]]


def _best_restored(table: pd.DataFrame) -> dict[str, float]:
    at_constraint = table[table["role"] == "constraint_last"]
    return {f"p_restored_{kind}": p for kind, p in at_constraint.groupby("kind")["p_restored"].max().items()}


def _reasons(questions: pd.DataFrame) -> str:
    counts = questions.loc[~questions["used"], "reason"].str.split(":").str[0].value_counts()
    return ", ".join(f"{count} {reason}" for reason, count in counts.items()) or "none"


def _sites(tables: list[pd.DataFrame]) -> pd.DataFrame:
    sites = pd.concat(tables, ignore_index=True)[_SITE_COLUMNS]
    return sites.astype(dict.fromkeys(("id", "part", "kind", "role", "token"), "category"))


def _questions(rows: list[dict], kinds: list[str]) -> pd.DataFrame:
    numbers = ["p_clean", "p_corrupted", *(f"p_restored_{kind}" for kind in kinds)]
    frame = pd.DataFrame(rows, columns=[*_ITEM_COLUMNS, "answer", "correct", "used", "reason", *numbers])
    return frame.astype(dict.fromkeys(numbers, float) | {"correct": bool, "used": bool})
