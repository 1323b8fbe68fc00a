"""Controls of a trace: runs whose effect must vanish if the trace measures what it says.

  other image     the clean run sees the image of another question (same words, another answer), so what is restored
                  carries another entity's answer;
  other position  what is restored at the constraint's last token is the clean output of a token outside of the
                  constraints, so nothing but the corrupted words' output is lost. (Another token of the constraint
                  would be no control: a model may read the image at all of them, as `mini` does.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

import pandas as pd

from ..draws import seeded_hash
from ..engine.windows import Execution
from ..errors import ParameterError, Unusable
from ..models.model import VisionLanguageModel
from ..prompts.corruption import CorruptedPrompt
from ..prompts.prompt import Prompt
from ..statistics import bootstrap_interval, joined
from ..studies.conditions import clean_prompt, corrupted_prompt
from ..studies.loop import RunOptions, question_loop
from ..testbed import Item, same_entity
from .averages import by_part_and_kind, effects_at
from .causal_trace import Scoring, trace
from .study import TraceStudy, read_position, trace_study

CONTROLS = ("other image", "other position")
_COLUMNS = ["control", "id", "part", "kind", "layer", "effect"]


def run_controls(
    model: VisionLanguageModel, testbed: Iterable[Item], study: TraceStudy, *, limit: int,
    twin: VisionLanguageModel | None = None, min_p_clean: float = 0.1, results_dir="results", **options,
) -> pd.DataFrame:
    """`control_effects` of at most `limit` questions of each part (0: the study's own effects alone).

    twin: a model that takes another route, asked the same questions; left out where it answers none of them right.
    options: those of `trace_controls`.
    """
    none = pd.DataFrame(columns=_COLUMNS)
    if not limit:
        return control_effects(study, none)
    items = list(testbed)
    controls = trace_controls(model, items, study, limit=limit, results_dir=results_dir, **options)
    ids = set(_controlled(study, limit)["id"])
    return control_effects(study, controls, twin and _twin_study(
        twin, [item for item in items if item.id in ids], study, min_p_clean=min_p_clean, results_dir=results_dir
    ))


def trace_controls(
    model: VisionLanguageModel, testbed: Iterable[Item], study: TraceStudy, *, limit: int = 0, seed: int = 0,
    results_dir="results", method: str | None = None, remote: bool | str | None = None,
) -> pd.DataFrame:
    """The controls of a study, at the token that is read, on the questions it used.

    Columns control, id, part, kind, layer, effect.

    testbed: where other images come from, the studied items among them. limit: questions of each part (0: all).
    A question without another image has no row of that control.
    """
    pool = list(testbed)
    by_id = {item.id: item for item in pool}
    settings = {"window": study.window, "kinds": list(dict.fromkeys(study.sites["kind"])), "method": method,
                "remote": model.runs_on(remote)}
    answers = {row.id: [int(token) for token in row.answer_ids] for row in _controlled(study, limit).itertuples()}
    frames = []
    for control in CONTROLS:
        run = _Run(control, pool, answers, study, seed, settings)
        asked = question_loop(
            model, [by_id[name] for name in answers], partial(_trace, model, run), item_key=run.key_of,
            key=settings | study.conditions.key() | {"table": "trace_controls", "version": 2, "control": control,
                "seed": seed},
            purpose=("control", "controlled"), run=RunOptions(results_dir, label=f"control {control!r}"),
            allow_none=True,
        )
        for entry in asked:
            if entry.error is not None:
                print(f"{entry.item.id}: no control {control!r}. {entry.error}", flush=True)
        frames += [entry.table.assign(control=control, id=entry.item.id, part=entry.item.part)[_COLUMNS]
                   for entry in asked if not entry.reason]
    return joined(frames, _COLUMNS)


@dataclass(frozen=True)
class _Run:
    """What one control needs besides model and item; answer_ids: what the model says, by the item's id."""

    control: str
    pool: list[Item]
    answer_ids: dict[str, list[int]]
    study: TraceStudy
    seed: int
    settings: dict

    def other(self, item: Item) -> Item | None:
        """The item whose image is seen; None where there is none, or where the control needs none."""
        return other_item(item, self.pool, self.seed) if self.control == "other image" else None

    def key_of(self, item: Item) -> dict:
        other = self.other(item)
        return {"answer_ids": self.answer_ids[item.id], "other": other and other.content()}


def control_effects(study: TraceStudy, controls: pd.DataFrame, twin: TraceStudy | None = None) -> pd.DataFrame:
    """A study's largest mean effect beside its controls at the same layer. Columns part, kind, layer, control, effect,
    low, high, n.

    Each control is compared on the questions it could run on. twin: a study of a model that takes another route
    (`mini-free`), read at the same cells.
    """
    rows = []
    for part, kind, effects in by_part_and_kind(study):
        layer = effects.mean().idxmax()
        found = {"none": effects[layer]}
        chosen = controls[(controls["part"] == part) & (controls["kind"] == kind) & (controls["layer"] == layer)]
        found |= {name: chosen.loc[chosen["control"] == name, "effect"] for name in CONTROLS}
        if twin is not None:
            other = effects_at(twin.sites, part, kind)
            found |= {"other model": other[layer]} if layer in other else {}
        for name, values in found.items():
            if values.empty:
                continue
            value, low, high = bootstrap_interval(values.to_numpy(float))
            rows.append({"part": part, "kind": kind, "layer": int(layer), "control": name, "effect": value,
                         "low": low, "high": high, "n": len(values)})
    return pd.DataFrame(rows)


def _controlled(study: TraceStudy, limit: int) -> pd.DataFrame:
    """The questions that controls run on: the first `limit` used of each part (0: all used)."""
    used = study.questions[study.questions["used"]]
    return used.groupby("part", sort=False).head(limit) if limit else used


def _twin_study(twin: VisionLanguageModel, items: list[Item], study: TraceStudy, **options) -> TraceStudy | None:
    kinds = list(dict.fromkeys(study.sites["kind"]))
    options |= {"only_read": True, "label": twin.name}
    try:
        return trace_study(twin, items, window=study.window, kinds=kinds, conditions=study.conditions, **options)
    except ParameterError:  # it knows none of the answers
        print(f"{twin.name}: no question could be used")
        return None


def other_item(item: Item, pool: Iterable[Item], seed: int = 0) -> Item | None:
    """An item with the same visual constraint, another image, another entity (where that is known) and no answer in
    common; the same relation if possible.

    Chosen by a hash, so it does not depend on the order of the pool.
    """
    def rank(other: Item) -> tuple:
        return other.relation != item.relation, seeded_hash(seed, item.id, other.id)

    fitting = [
        other for other in pool
        if other.visual_constraint == item.visual_constraint and other.image not in (None, item.image)
        and not same_entity(item, other) and not set(other.answers) & set(item.answers)
    ]
    return min(fitting, key=rank, default=None)


def _trace(model: VisionLanguageModel, run: _Run, item: Item) -> pd.DataFrame:
    """The table stored for one control of one question: effects by kind and layer. Raises Unusable."""
    conditions, name, answer_ids = run.study.conditions, item.id, run.answer_ids[item.id]
    if run.control == "other image":
        other = run.other(item)
        if other is None:
            raise Unusable("no other image")
        item = replace(item, image=other.image, entity=other.entity)
    prompt = clean_prompt(model, item, conditions)
    corrupted = corrupted_prompt(model, item, prompt, conditions)
    position = read_position(prompt, item, conditions)
    if run.control == "other position":
        corrupted, position = _moved(prompt, corrupted, position, f"{run.seed}:{name}")
    result = trace(
        model, prompt, corrupted, window=run.settings["window"], window_rule=conditions.window_rule,
        kinds=run.settings["kinds"], positions=(position,), answer=answer_ids, scoring=Scoring(require_top=False),
        execution=Execution(run.settings["method"], remote=run.settings["remote"]),
    )
    return result.to_frame()[["kind", "layer", "effect"]].assign(reason="")


def _moved(prompt: Prompt, corrupted: CorruptedPrompt, position: int, draw: str) -> tuple[CorruptedPrompt, int]:
    """The corrupted prompt in which only a token outside of the constraints has a counterpart, that of `position`.

    The token, which is returned too, is drawn from those behind the image and before the constraint, or else behind it;
    never a word that the constraint has as well ("a country that borders this country"): `mini` reads the image there.
    """
    words = {prompt.tokens[c] for role in prompt.spans for c in prompt.positions(role)}
    others = [c for c in prompt.positions("other")
              if c > max(prompt.visual, default=0) and prompt.tokens[c] not in words]
    others = [c for c in others if c < position] or others
    source = others[int.from_bytes(seeded_hash(draw)) % len(others)]
    alignment = [None] * len(prompt)
    alignment[source] = corrupted.alignment[position]
    first = min(corrupted.first_corrupted, source)  # the clean run is recorded from there on
    return replace(corrupted, alignment=tuple(alignment), first_corrupted=first), source
