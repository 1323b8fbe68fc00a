"""The settings of each method by a small grid, so that no baseline is a straw man (lambda too: paper, section 5).

To be done on other items than those that are evaluated later.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, replace
from itertools import product

import pandas as pd

from interventions.editing.fine_tuning import FineTuning
from interventions.editing.items import WrongItems
from interventions.editing.study import OURS, EditSettings, edit_study
from interventions.errors import EditError

# method -> what is tried: fields of `EditSettings`. Of fine-tuning, from rates at which it is too slow to such at which
# unrelated answers break: with Adam, the first step alone changes every weight by the learning rate.
GRIDS = {
    OURS: tuple({"lam": lam} for lam in (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)),
    "fine-tuning": tuple({"fine_tuning": FineTuning(rate)} for rate in (3e-6, 1e-5, 3e-5, 1e-4, 3e-4)),
    "constrained fine-tuning": tuple(
        {"constrained": FineTuning(rate, epsilon=most)}
        for most, rate in product((3e-5, 1e-4, 3e-4, 1e-3), (1e-5, 3e-5, 1e-4, 3e-4)) if rate <= most
    ),
}


def search(
    model, wrong: WrongItems, testbed, references: list, method: str, settings: EditSettings | None = None,
    grid: Iterable[dict] = (), **options,
) -> tuple[EditSettings, pd.DataFrame]:
    """The best settings of a method by a grid, and the table of the search, best first.

    grid: changes of `settings`, by default `GRIDS[method]`. wrong, testbed, references, options: those of
    `edit_study`, which stores its tables. Table: the method's settings, mean efficacy, generalisation (0 to 1) and
    specificity (accuracy on unrelated questions after the edit as a share of that before), score (their mean), seconds
    of an edit, n (items). Raises EditError for a method without settings.
    """
    if method not in GRIDS:
        raise EditError(f"method must be one that has settings ({', '.join(map(repr, GRIDS))}), not {method!r}.")
    tried, testbed = [replace(settings or EditSettings(), **change) for change in grid or GRIDS[method]], list(testbed)
    rows = []
    for one in tried:
        results = edit_study(model, wrong, testbed, references, one, methods=[method], **options).results
        means = {
            "efficacy": results["p_target"].mean(), "generalisation": results["p_paraphrase"].mean(),
            "specificity": results["accuracy_after"].mean() / results["accuracy_before"].mean(),
        }
        rows.append(_told(one, method) | means | {
            "score": pd.Series(means).mean(), "seconds": results["seconds"].mean(), "n": len(results),
        })
    table = pd.DataFrame(rows)
    order = table["score"].sort_values(ascending=False, kind="stable").index
    return tried[order[0]], table.loc[order].reset_index(drop=True)


def _told(settings: EditSettings, method: str) -> dict:
    if method == OURS:
        return {"lam": settings.lam}
    return asdict(settings.constrained if method == "constrained fine-tuning" else settings.fine_tuning)
