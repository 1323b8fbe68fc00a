"""Controls of a trace: runs whose effect must vanish if the trace is valid.

  other position  The clean output of a token outside the constraints is restored at the constraint's last token.
                  Another token of the constraint is no control: a model may read the image there, as `mini` does.
  other model     A model that does not store the fact at the same site, such as `mini-free`.

Whether an effect means that the answer is stored there, no control can tell: see `transplant`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial

import pandas as pd

from ..draws import seeded_hash
from ..engine.windows import Execution
from ..errors import ParameterError
from ..models.model import VisionLanguageModel
from ..prompts.corruption import CorruptedPrompt
from ..prompts.prompt import Prompt
from ..statistics import bootstrap_interval, joined
from ..studies.conditions import Conditions, clean_prompt, corrupted_prompt
from ..studies.loop import DEFAULT_RUN, RunOptions, question_loop
from ..testbed import Item
from .averages import by_part_and_kind, effects_at
from .causal_trace import Scoring, trace
from .study import TraceStudy, read_position, trace_study

CONTROLS = ("other position",)  # of the study's own model
COLUMNS = ["control", "id", "part", "kind", "layer", "effect"]


def run_controls(
    model: VisionLanguageModel, testbed: Iterable[Item], study: TraceStudy, *, limit: int,
    control_model: VisionLanguageModel | None = None, min_p_clean: float = 0.1, seed: int = 0,
    run: RunOptions = DEFAULT_RUN,
) -> pd.DataFrame:
    """Run all controls of a study and compare them with it.

    Args:
        model: the model of the study.
        testbed: the study's items.
        study: the study.
        limit: questions of each part that controls run on; 0: none.
        control_model: a model that does not store the fact at the same site. It is asked the same questions, and is
            left out if it answers none of them right.
        min_p_clean: as for `trace_study`, of the control model.
        seed: of the choice of other positions.
        run: where tables are stored and whether the model runs remotely; its shard and label are not used.

    Returns:
        See `control_effects`.
    """
    if not limit:
        return control_effects(study, pd.DataFrame(columns=COLUMNS))
    items = list(testbed)
    controls = trace_controls(model, items, study, limit=limit, seed=seed, run=run)
    if control_model is None:
        return control_effects(study, controls)
    ids = set(_controlled(study, limit)["id"])
    try:
        control_study = trace_study(
            control_model, [item for item in items if item.id in ids], window=study.window, kinds=_kinds(study),
            conditions=study.conditions, min_p_clean=min_p_clean, only_read=True,
            run=RunOptions(run.results_dir, label=control_model.name),
        )
    except ParameterError:  # it knows none of the answers
        print(f"{control_model.name}: no question could be used")
        control_study = None
    return control_effects(study, controls, control_study)


def trace_controls(
    model: VisionLanguageModel, testbed: Iterable[Item], study: TraceStudy, *, limit: int = 0, seed: int = 0,
    method: str | None = None, run: RunOptions = DEFAULT_RUN,
) -> pd.DataFrame:
    """Run the controls of a study's own model, at the token that is read.

    Args are those of `run_controls`, but limit=0 means all used questions; method: see `Execution`.

    Returns:
        Columns control, id, part, kind, layer, effect.
    """
    by_id = {item.id: item for item in testbed}
    settings = {"window": study.window, "kinds": _kinds(study), "method": method, "remote": model.runs_on(run.remote)}
    answers = {row.id: [int(token) for token in row.answer_ids] for row in _controlled(study, limit).itertuples()}
    [name] = CONTROLS
    results = question_loop(
        model, [by_id[item_id] for item_id in answers],
        partial(_trace, model, study.conditions, settings, answers, seed),
        key=settings | study.conditions.key() | {
            "table": "trace_controls", "version": 2, "control": name, "seed": seed,
        },
        item_key=lambda item: {"answer_ids": answers[item.id], "other": None}, purpose=("control", "controlled"),
        run=RunOptions(run.results_dir, label=f"control {name!r}"), allow_none=True,
    )
    for result in results:
        if result.error is not None:
            print(f"{result.item.id}: no control {name!r}. {result.error}", flush=True)
    frames = [result.table.assign(control=name, id=result.item.id, part=result.item.part)
              for result in results if not result.reason]
    return joined(frames, COLUMNS)


def control_effects(
    study: TraceStudy, controls: pd.DataFrame, control_study: TraceStudy | None = None
) -> pd.DataFrame:
    """Return a study's largest mean effects beside its controls (from `trace_controls`) at the same layer.

    Columns part, kind, layer, control ("none" for the study itself), effect, low, high, n.
    """
    rows = []
    for part, kind, effects in by_part_and_kind(study):
        layer = effects.mean().idxmax()
        by_control = {"none": effects[layer]}
        chosen = controls[(controls["part"] == part) & (controls["kind"] == kind) & (controls["layer"] == layer)]
        by_control |= {name: chosen.loc[chosen["control"] == name, "effect"] for name in CONTROLS}
        if control_study is not None:
            other = effects_at(control_study.sites, part, kind)
            by_control |= {"other model": other[layer]} if layer in other else {}
        for name, values in by_control.items():
            if values.empty:
                continue
            value, low, high = bootstrap_interval(values.to_numpy(float))
            rows.append({"part": part, "kind": kind, "layer": int(layer), "control": name, "effect": value,
                         "low": low, "high": high, "n": len(values)})
    return pd.DataFrame(rows)


def _controlled(study: TraceStudy, limit: int) -> pd.DataFrame:
    """Return the questions that controls run on: the first `limit` used ones of each part (0: all)."""
    used = study.questions[study.questions["used"]]
    return used.groupby("part", sort=False).head(limit) if limit else used


def _kinds(study: TraceStudy) -> list[str]:
    return list(dict.fromkeys(study.sites["kind"]))


def _trace(
    model: VisionLanguageModel, conditions: Conditions, settings: dict, answers: dict[str, list[int]], seed: int,
    item: Item,
) -> pd.DataFrame:
    """Return the table stored for the other position of one question: effects by kind and layer."""
    prompt = clean_prompt(model, item, conditions)
    corrupted = corrupted_prompt(model, item, prompt, conditions)
    corrupted, position = _moved(prompt, corrupted, read_position(prompt, item, conditions), f"{seed}:{item.id}")
    result = trace(
        model, prompt, corrupted, window=settings["window"], window_rule=conditions.window_rule,
        kinds=settings["kinds"], positions=(position,), answer=answers[item.id],
        scoring=Scoring(require_top=False), execution=Execution(settings["method"], remote=settings["remote"]),
    )
    return result.to_frame()[["kind", "layer", "effect"]].assign(reason="")


def _moved(prompt: Prompt, corrupted: CorruptedPrompt, position: int, draw: str) -> tuple[CorruptedPrompt, int]:
    """Return a corrupted prompt that restores, at `position`, the clean output of a token outside the constraints.

    The token, which is returned too, is drawn from those after the image and before the constraint, or else after it.
    A word that the constraint also has is not drawn ("a country that borders this country"): `mini` reads the image
    there.
    """
    words = {prompt.tokens[c] for role in prompt.spans for c in prompt.positions(role)}
    others = [c for c in prompt.positions("other")
              if c > max(prompt.visual, default=0) and prompt.tokens[c] not in words]
    others = [c for c in others if c < position] or others
    source = others[int.from_bytes(seeded_hash(draw)) % len(others)]
    alignment: list[int | None] = [None] * len(prompt)
    alignment[source] = corrupted.alignment[position]
    first = min(corrupted.first_corrupted, source)  # the clean run is recorded from there on
    return replace(corrupted, alignment=tuple(alignment), first_corrupted=first), source
