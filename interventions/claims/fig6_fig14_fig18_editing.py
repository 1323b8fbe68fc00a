"""Figures 6, 14 and 18: what edits achieve, where, and how many can be kept.

The paper gives the values of MultEdit alone, and says of the baselines that it outperforms them on all metrics. The
thresholds are this project's own: it asks them of any model that MultEdit is said to work on.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable

import pandas as pd

from ..editing.averages import PAPER, PRODUCT
from ..editing.items import TASKS
from ..editing.study import BASELINES, OURS
from ..layers import early_layers, layer_range
from ..reports.record import Claim
from ..statistics import NEGLIGIBLE, NOT_MEASURED, Number
from .common import above, above_zero, number, number_of

LEAST = {"efficacy": 0.8, "generalisation": 0.7, "specificity": -2.0}  # specificity in points of 100
CONTROLS = ("no edit", "random layer")
SEQUENTIAL = {"efficacy": "p_target", "generalisation": "p_paraphrase", "accuracy": "accuracy_after"}
TRIVIAL = 0.1  # a gain below this share of the best layer's is called trivial
BROKEN = 0.1  # the share of its best value with fewer edits that a quantity has lost when it is called broken
KEPT = 0.1  # efficacy below it: nothing was inserted that more edits could break
OTHERS_GAIN = "gain", "gain_low", "gain_high"  # columns of `edit_averages.early_advantage`
APART = 0.1  # how far the share of whole answers may lie below P(O*) before a report says so
ROUNDING = 1e-9


def fig6_numbers(means: pd.DataFrame, differences: pd.DataFrame) -> dict[str, Number]:
    """Figure 6 in numbers: task/method/metric, and task/method less MultEdit/metric over the same items.

    means, differences: those of `edit_averages.method_means` and `method_differences`. What no item has is left out.
    """
    numbers = {f"{row['task']}/{row['method']}/{row['metric']}": number_of(row, "value")
               for _, row in means[means["n"] > 0].iterrows()}
    numbers |= {f"{row['task']}/{row['method']} - {OURS}/{row['metric']}": number_of(row, "difference")
                for _, row in differences[differences["n"] > 0].iterrows()}
    return numbers


def fig6_claims(means: pd.DataFrame, differences: pd.DataFrame, tasks: Iterable[str] = TASKS) -> list[Claim]:
    """The findings of Figure 6, for each of these tasks that was done: MultEdit reaches each threshold, beats the
    controls, beats the baselines.

    means, differences: as for `fig6_numbers`. A threshold holds for the mean. A control is beaten if the interval of
    the paired difference in efficacy x generalisation (item by item) lies above 0.01: an edit that fails is surely
    better than none, but not to speak of. A baseline is beaten if the interval of each of the three metrics lies above
    0, and it is not if one lies below; else it cannot be said, and neither can what is not measured.
    """
    found, paired, claims = _table(means, "value"), _table(differences, "difference"), []
    for task in [task for task in tasks if task in set(means["task"])]:
        for metric, least in LEAST.items():
            points = " points" if metric == "specificity" else ""
            title = f"{task}: {OURS}'s {metric} is at least {least:g}{points}"
            known = (task, OURS, metric) in PAPER
            paper = (f"{PAPER[task, OURS, metric]:g}{points}; " if known else "") + "the threshold is ours"
            value, before = found.get((task, OURS, metric)), found.get((task, "no edit", metric))
            if value is None:
                claims.append(Claim(title, paper, NOT_MEASURED, None))
                continue
            here = f"{value}{points} (n = {value.n})"
            if metric == "efficacy" and (said := found.get((task, OURS, "exact"))) is not None:
                here += f", the whole answer is the target in {said.value:.0%}"
            if metric != "specificity" and before is not None:
                here += f", {before} before"
                if (task, "no edit", metric) in PAPER:
                    paper = paper.replace(";", f", {PAPER[task, 'no edit', metric]:g} before;", 1)
            claims.append(Claim(title, paper, here, bool(value.value >= least - ROUNDING)))
        for control in CONTROLS:
            title, paper = f"{task}: {OURS} is better than {_with_article(control)}", "early layers are better"
            if control == "no edit":
                paper = "higher P(target) after the edit"
            more = _more(paired.get((task, control, PRODUCT)))
            own = found.get((task, OURS, PRODUCT))
            if more is None or own is None:
                claims.append(Claim(title, paper, NOT_MEASURED, None))
                continue
            here = f"{PRODUCT} {own.value:.2f}, by {more} more (n = {more.n}; above {NEGLIGIBLE:g} counts)"
            claims.append(Claim(title, paper, here, above(more, NEGLIGIBLE)))
        for baseline in BASELINES:
            title, paper = f"{task}: {OURS} outperforms {baseline}", "on all metrics"
            more = {metric: _more(paired.get((task, baseline, metric))) for metric in LEAST}
            better = [above_zero(by) for by in more.values() if by is not None]
            worse = any(by is not None and above_zero(_negative(by)) for by in more.values())
            holds = False if worse else True if len(better) == len(LEAST) and all(better) else None
            claims.append(Claim(title, paper, _sorted_out(more) if better else NOT_MEASURED, holds))
    return claims


def whole_answers(means: pd.DataFrame) -> str:
    """Where MultEdit's P(O*) is high and the whole answer often another one: a sentence a task, or nothing.

    means: as for `fig6_numbers`. P(O*) is that of the target's tokens; an answer may go on behind them.
    """
    found, told = _table(means, "value"), []
    for task in dict.fromkeys(means["task"]):
        p, said = (found.get((task, OURS, metric)) for metric in ("efficacy", "exact"))
        if p is not None and said is not None and said.value < p.value - APART:
            told.append(
                f"{task}: P(target) is {p.value:.2f} after {OURS}, but the whole answer is the target in "
                f"{said.value:.0%} of {said.n} items only. P(target) counts the tokens of the target,"
                " not what the model writes behind them."
            )
    return " ".join(told)


def fig14_numbers(means: pd.DataFrame, advantage: pd.DataFrame) -> dict[str, Number]:
    """Figure 14 in numbers, by task: the best layer and its efficacy, early less other layers, the gain of the others.

    means, advantage: those of `edit_averages.layer_means` and `early_advantage`.
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
        numbers[f"{row['task']}/others/gain"] = number_of(row, *OTHERS_GAIN)
    return numbers


def fig14_claims(means: pd.DataFrame, advantage: pd.DataFrame, n_layers: int) -> list[Claim]:
    """The findings of Figure 14, by task: an early layer is the best to edit, and other layers are not trivial.

    means, advantage: as for `fig14_numbers`. The first holds if the layer of the largest mean efficacy is early
    (`averages.early_layers`) and early layers are better on average, by an interval above 0. The second if the others'
    gain in P(O*) has its interval above 0 and is a tenth of the best layer's at least.
    """
    early, claims = early_layers(n_layers), []
    for task in dict.fromkeys(means["task"]):
        best, rows = _best_layer(means, task, "efficacy"), advantage[advantage["task"] == task]
        titles = f"{task}: the best layer to edit is an early one", f"{task}: editing other layers is not trivial"
        papers = f"early is best, here {layer_range(early)} of {n_layers}", "non-trivial, but less effective"
        if best is None or rows.empty:
            here = NOT_MEASURED if best is None else "no item was edited in early and in other layers"
            claims += [Claim(title, paper, here, None) for title, paper in zip(titles, papers, strict=True)]
            continue
        row = rows.iloc[0]
        difference, gain = number_of(row, "difference"), number_of(row, *OTHERS_GAIN)
        here = (f"efficacy {number_of(best, 'value')} at layer {best['layer']}; early layers {row['early']:.2f}, "
                f"others {row['others']:.2f}, difference {difference} (n = {row['n']})")
        claims.append(Claim(titles[0], papers[0], here, bool(best["layer"] in early and above_zero(difference))))
        gains = means[(means["task"] == task) & (means["metric"] == "gain") & (means["layer"] == best["layer"])]
        most = float(gains["value"].iloc[0])
        here = f"P(target) rises by {gain} in the mean of the other layers, by {most:.2f} at the best layer"
        claims.append(Claim(titles[1], papers[1], here, above_zero(gain) and gain.value >= TRIVIAL * most))
    return claims


def fig18_numbers(examples: pd.DataFrame) -> dict[str, Number]:
    """Of the examples shown: the share that says the target, and P(target) before and after.

    examples: that of `edit_averages.edit_examples`.
    """
    return {name: number(values) for name in ("exact", "p_before", "p_target")
            if len(values := examples[name].astype(float).dropna())}


def fig18_claims(examples: pd.DataFrame) -> list[Claim]:
    """The examples of Figure 18 say their target after the edit: all of those shown, which no one has picked."""
    title, paper = "the examples shown say the target after the edit", "examples of the set are shown, without answers"
    if examples.empty:
        return [Claim(title, paper, "no item was edited", None)]
    said = examples["exact"].eq(True)
    here = f"{said.sum()} of {len(examples)}"
    missed = [f"{_short(row.after)} instead of {_short(row.target)}" for row in examples[~said].itertuples()]
    return [Claim(title, paper, here + (f"; {', '.join(missed)}" if missed else ""), bool(said.all()))]


def sequential_claims(frame: pd.DataFrame) -> list[Claim]:
    """What breaks first when edits are kept, by task; not in the paper. It holds if nothing breaks.

    frame: that of `sequential_edits.sequential_edits`: task, edits, p_target, p_paraphrase, accuracy_before,
    accuracy_after. A quantity is broken where it has lost more than a tenth of its best value with fewer edits (of
    accuracy also: with none); of two that break at once, the first is the one that lost more. Where no edit
    took, it cannot be said.
    """
    claims = []
    for task in dict.fromkeys(frame["task"]):
        rows = frame[frame["task"] == task].sort_values("edits").set_index("edits")
        title, paper = f"{task}: {_edits(rows.index[-1])} can be kept at once", "not in the paper"
        highest = rows["p_target"].astype(float).max()
        if highest < KEPT:
            claims.append(Claim(title, paper, f"efficacy is {highest:.2f} at most: there is nothing to keep", None))
            continue
        told, broken, compared = [], [], 0
        for name, column in SEQUENTIAL.items():
            values = rows[column].astype(float).dropna()
            if column == "accuracy_after" and len(values):
                values = pd.concat([pd.Series({0: float(rows["accuracy_before"].iloc[0])}), values]).dropna()
            if len(values) < 2:
                continue
            compared += 1
            lost = (1 - values / values.cummax().shift()).fillna(0)  # 0 / 0: nothing to lose
            over = lost[lost > BROKEN + ROUNDING]
            at = f" (a tenth lost at {_edits(over.index[0])})" if len(over) else ""
            told.append(f"{name} {values.iloc[0]:.2f} to {values.iloc[-1]:.2f}{at}")
            if len(over):
                broken.append((over.index[0], -over.iloc[0], name))
        if compared < len(SEQUENTIAL) and not broken:
            here = "too few numbers of edits to compare" if len(rows) < 2 else f"not all measured: {', '.join(told)}"
            claims.append(Claim(title, paper, here, None))
            continue
        first = f"{min(broken)[2]} breaks first: " if broken else "nothing breaks: "
        claims.append(Claim(title, paper, first + ", ".join(told), not broken))
    return claims


def _table(frame: pd.DataFrame, name: str) -> dict[tuple[str, str, str], Number]:
    """(task, method, metric) -> number, of what some item has."""
    return {(row["task"], row["method"], row["metric"]): number_of(row, name)
            for _, row in frame[frame["n"] > 0].iterrows()}


def _more(less: Number | None) -> Number | None:
    """How much more MultEdit has, of how much more than it another method has."""
    return None if less is None else _negative(less)


def _negative(number: Number) -> Number:
    return Number(-number.value, -number.high, -number.low, number.n)


def _sorted_out(more: dict[str, Number | None]) -> str:
    groups = {"better": [], "worse": [], "undecided": [], NOT_MEASURED: []}
    for metric, by in more.items():
        if by is None:
            groups[NOT_MEASURED].append(metric)
            continue
        worse = above_zero(_negative(by))
        name = "better" if above_zero(by) else "worse" if worse else "undecided"
        groups[name].append(f"{metric} {by} (n = {by.n})")
    return "; ".join(f"{name}: {', '.join(told)}" for name, told in groups.items() if told)


def _best_layer(means: pd.DataFrame, task: str, metric: str) -> pd.Series | None:
    cells = means[(means["task"] == task) & (means["metric"] == metric) & (means["n"] > 0)]
    return None if cells.empty else cells.loc[cells["value"].astype(float).idxmax()]


def _edits(n: float) -> str:
    return f"{n:.0f} edit{'' if n == 1 else 's'}"


def _with_article(control: str) -> str:
    return control if control.startswith("no ") else f"a {control}"


def _short(text: object) -> str:
    missing = text is None or (isinstance(text, float) and math.isnan(text))
    return '"?"' if missing else f'"{textwrap.shorten(str(text), 30, placeholder="…")}"'
