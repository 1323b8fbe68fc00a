"""Figures 6, 14 and 18: claims about what edits achieve, at which layer, and how many can be kept.

The paper gives the values of MultEdit only, and says that it outperforms the baselines on all metrics. The thresholds
are those of this project.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

import pandas as pd

from ..editing.averages import PAPER, PRODUCT
from ..editing.items import TASKS
from ..editing.study import BASELINES, OURS
from ..layers import early_layers, layer_range
from ..reports.record import Claim
from ..statistics import NEGLIGIBLE, NOT_MEASURED, Number, rows_where
from .common import above, largest_row, number, number_of

THRESHOLDS = {"efficacy": 0.8, "generalisation": 0.7, "specificity": -2.0}  # specificity in points of 100
CONTROLS = {"no edit": "higher P(target) after the edit", "random layer": "early layers are better"}  # -> the paper
SEQUENTIAL = {"efficacy": "p_target", "generalisation": "p_paraphrase", "accuracy": "accuracy_after"}
TRIVIAL = 0.1  # a gain below this share of the best layer's gain is trivial
BROKEN = 0.1  # a quantity is broken if it lost more than this share of its best value with fewer edits
KEPT = 0.1  # an efficacy below this leaves no insertion that more edits could break
MISMATCH = 0.1  # a report mentions a share of whole answers that is this far below P(target)
ROUNDING = 1e-9
_OTHERS_GAIN = "gain", "gain_low", "gain_high"  # columns of `early_advantage`


def fig6_numbers(means: pd.DataFrame, differences: pd.DataFrame) -> dict[str, Number]:
    """Return Figure 6 in numbers, from `method_means` and `method_differences`.

    Their names are task/method/metric, and "task/method - MultEdit/metric" over the same items.
    """
    numbers = {"/".join(key): value for key, value in _table(means, "value").items()}
    differences = _table(differences, "difference").items()
    return numbers | {f"{task}/{method} - {OURS}/{metric}": value for (task, method, metric), value in differences}


def fig6_claims(means: pd.DataFrame, differences: pd.DataFrame, tasks: Iterable[str] = TASKS) -> list[Claim]:
    """Return the findings of Figure 6 for each of these tasks that was run. The frames are those of `fig6_numbers`.

    A threshold holds for MultEdit's mean. A control is beaten if the interval of the paired difference in efficacy x
    generalisation lies above 0.01, as smaller differences are negligible. A baseline is beaten if the intervals of all
    three metrics lie above 0, and not beaten if one lies below. Anything else is undecided, as is what was not
    measured.
    """
    values, paired = _table(means, "value"), _table(differences, "difference")
    paired = {key: _negative(value) for key, value in paired.items()}  # how much more MultEdit achieves
    claims = []
    for task in [task for task in tasks if task in set(means["task"])]:
        claims += [_threshold_claim(values, task, metric) for metric in THRESHOLDS]
        for control, paper in CONTROLS.items():
            title = f"{task}: {OURS} is better than {control if control.startswith('no ') else f'a {control}'}"
            more, own = paired.get((task, control, PRODUCT)), values.get((task, OURS, PRODUCT))
            if more is None or own is None:
                claims.append(Claim(title, paper, NOT_MEASURED, None))
                continue
            here = f"{PRODUCT} {own.value:.2f}, by {more} more (n = {more.n}; above {NEGLIGIBLE:g} counts)"
            claims.append(Claim(title, paper, here, above(more, NEGLIGIBLE)))
        for baseline in BASELINES:
            more = {metric: paired.get((task, baseline, metric)) for metric in THRESHOLDS}
            verdicts = {metric: _verdict(value) for metric, value in more.items()}
            kinds = set(verdicts.values())
            holds = False if "worse" in kinds else True if kinds == {"better"} else None
            here = NOT_MEASURED if kinds == {NOT_MEASURED} else "; ".join(
                f"{kind}: " + ", ".join(
                    metric if kind == NOT_MEASURED else f"{metric} {more[metric]} (n = {more[metric].n})"
                    for metric, verdict in verdicts.items() if verdict == kind
                )
                for kind in ("better", "worse", "undecided", NOT_MEASURED) if kind in kinds
            )
            claims.append(Claim(f"{task}: {OURS} outperforms {baseline}", "on all metrics", here, holds))
    return claims


def whole_answers(means: pd.DataFrame) -> str:
    """Return, from `method_means`, a sentence for each task where P(target) is high but the answer often differs."""
    values, sentences = _table(means, "value"), []
    for task in dict.fromkeys(means["task"]):
        p, exact = (values.get((task, OURS, metric)) for metric in ("efficacy", "exact"))
        if p is not None and exact is not None and exact.value < p.value - MISMATCH:
            sentences.append(
                f"{task}: P(target) is {p.value:.2f} after {OURS}, but the whole answer is the target in only "
                f"{exact.value:.0%} of {exact.n} items. P(target) counts the tokens of the target, not what the model "
                "writes after them."
            )
    return " ".join(sentences)


def fig14_numbers(means: pd.DataFrame, advantage: pd.DataFrame) -> dict[str, Number]:
    """Return Figure 14 in numbers by task, from `layer_means` and `early_advantage`.

    The best layer, early minus other layers, and the gain of other layers.
    """
    numbers = {}
    for task in dict.fromkeys(means["task"]):
        for metric in ("efficacy", "generalisation"):
            best = _best_layer(means, task, metric)
            if best is not None:
                numbers[f"{task}/best_layer/{metric}"] = Number(int(best["layer"]), n=int(best["n"]))
                numbers[f"{task}/best_{metric}"] = number_of(best, "value")
    for _, row in advantage.iterrows():
        numbers[f"{row['task']}/early - others/efficacy"] = number_of(row, "difference")
        numbers[f"{row['task']}/others/gain"] = number_of(row, *_OTHERS_GAIN)
    return numbers


def fig14_claims(means: pd.DataFrame, advantage: pd.DataFrame, n_layers: int) -> list[Claim]:
    """Return the findings of Figure 14 by task. The frames are those of `fig14_numbers`.

    An early layer is the best to edit: the largest mean efficacy lies in one, and early layers are better on average,
    by an interval above 0. Editing other layers is not trivial: the interval of their gain in P(target) lies above 0,
    and it is at least a tenth of the gain at the best layer.
    """
    early, claims = early_layers(n_layers), []
    for task in dict.fromkeys(means["task"]):
        best, rows = _best_layer(means, task, "efficacy"), rows_where(advantage, task=task)
        first = second = (NOT_MEASURED if best is None else "no item was edited in early and in other layers", None)
        if best is not None and len(rows):
            row = rows.iloc[0]
            difference, gain = number_of(row, "difference"), number_of(row, *_OTHERS_GAIN)
            most = float(rows_where(means, task=task, metric="gain", layer=best["layer"])["value"].iloc[0])
            first = (
                f"efficacy {number_of(best, 'value')} at layer {best['layer']}; early layers {row['early']:.2f}, "
                f"others {row['others']:.2f}, difference {difference} (n = {row['n']})",
                bool(best["layer"] in early and above(difference)),
            )
            second = (
                f"P(target) rises by {gain} in the mean of the other layers, by {most:.2f} at the best layer",
                above(gain) and gain.value >= TRIVIAL * most,
            )
        paper = f"early is best, here {layer_range(early)} of {n_layers}"
        claims.append(Claim(f"{task}: the best layer to edit is an early one", paper, *first))
        paper = "non-trivial, but less effective"
        claims.append(Claim(f"{task}: editing other layers is not trivial", paper, *second))
    return claims


def fig18_numbers(examples: pd.DataFrame) -> dict[str, Number]:
    """Return the share of the examples of `edit_examples` that say the target, and P(target) before and after."""
    return {name: number(values) for name in ("exact", "p_before", "p_target")
            if len(values := examples[name].astype(float).dropna())}


def fig18_claims(examples: pd.DataFrame) -> list[Claim]:
    """Return the claim of Figure 18: all examples shown say their target after the edit. They were drawn at random."""
    title, paper = "the examples shown say the target after the edit", "examples of the set are shown, without answers"
    if examples.empty:
        return [Claim(title, paper, "no item was edited", None)]
    exact = examples["exact"].eq(True)
    here = f"{exact.sum()} of {len(examples)}"
    missed = [f"{_short(row.after)} instead of {_short(row.target)}" for row in examples[~exact].itertuples()]
    return [Claim(title, paper, here + (f"; {', '.join(missed)}" if missed else ""), bool(exact.all()))]


def sequential_claims(frame: pd.DataFrame) -> list[Claim]:
    """Return what breaks first when edits are kept, by task; this is not in the paper. A claim holds if nothing breaks.

    A quantity is broken once it has lost more than a tenth of its best value with fewer edits (for accuracy, also with
    none). Of two that break at once, the one that lost more counts as the first. A claim is undecided if no edit
    worked. `frame` is from `sequential_edits`.
    """
    claims = []
    for task in dict.fromkeys(frame["task"]):
        rows = rows_where(frame, task=task).sort_values("edits").set_index("edits")
        title = f"{task}: {_edits(rows.index[-1])} can be kept at once"
        highest = rows["p_target"].astype(float).max()
        if highest < KEPT:
            here = f"efficacy is at most {highest:.2f}: there is nothing to keep"
            claims.append(Claim(title, "not in the paper", here, None))
            continue
        texts, broken = [], []
        for name, column in SEQUENTIAL.items():
            values = rows[column].astype(float).dropna()
            if column == "accuracy_after" and len(values):
                values = pd.concat([pd.Series({0: float(rows["accuracy_before"].iloc[0])}), values]).dropna()
            if len(values) < 2:
                continue
            loss = (1 - values / values.cummax().shift()).fillna(0)  # 0 / 0: nothing to lose
            over = loss[loss > BROKEN + ROUNDING]
            at = f" (a tenth lost at {_edits(over.index[0])})" if len(over) else ""
            texts.append(f"{name} {values.iloc[0]:.2f} to {values.iloc[-1]:.2f}{at}")
            if len(over):
                broken.append((over.index[0], -over.iloc[0], name))
        if len(texts) < len(SEQUENTIAL) and not broken:
            here = "too few numbers of edits to compare" if len(rows) < 2 else f"not all measured: {', '.join(texts)}"
            claims.append(Claim(title, "not in the paper", here, None))
            continue
        first = f"{min(broken)[2]} breaks first: " if broken else "nothing breaks: "
        claims.append(Claim(title, "not in the paper", first + ", ".join(texts), not broken))
    return claims


def _threshold_claim(values: dict[tuple[str, str, str], Number], task: str, metric: str) -> Claim:
    least, points = THRESHOLDS[metric], " points" if metric == "specificity" else ""
    own, before = ((task, method, metric) for method in (OURS, "no edit"))
    title = f"{task}: {OURS}'s {metric} is at least {least:g}{points}"
    paper = f"{PAPER[own]:g}{points}; the threshold is ours" if own in PAPER else "the threshold is ours"
    value = values.get(own)
    if value is None:
        return Claim(title, paper, NOT_MEASURED, None)
    here = f"{value}{points} (n = {value.n})"
    if metric == "efficacy" and (exact := values.get((task, OURS, "exact"))) is not None:
        here += f", the whole answer is the target in {exact.value:.0%}"
    if metric != "specificity" and before in values:
        here += f", {values[before]} before"
        if before in PAPER:
            paper = paper.replace(";", f", {PAPER[before]:g} before;", 1)
    return Claim(title, paper, here, bool(value.value >= least - ROUNDING))


def _table(frame: pd.DataFrame, name: str) -> dict[tuple[str, str, str], Number]:
    """(task, method, metric) -> number, for what was measured on at least one item"""
    return {(row["task"], row["method"], row["metric"]): number_of(row, name)
            for _, row in frame[frame["n"] > 0].iterrows()}


def _negative(number: Number) -> Number:
    return Number(-number.value, -number.high, -number.low, number.n)


def _verdict(more: Number | None) -> str:
    if more is None:
        return NOT_MEASURED
    return "better" if above(more) else "worse" if above(_negative(more)) else "undecided"


def _best_layer(means: pd.DataFrame, task: str, metric: str) -> pd.Series | None:
    cells = rows_where(means, task=task, metric=metric)
    cells = cells[cells["n"] > 0]
    return None if cells.empty else largest_row(cells, "value")


def _edits(n: float) -> str:
    return f"{n:.0f} edit{'' if n == 1 else 's'}"


def _short(text: object) -> str:
    return '"?"' if pd.isna(text) else f'"{textwrap.shorten(str(text), 30, placeholder="…")}"'
