"""The settings of the editing methods on `mini`: `python -m benchmarks.edit_settings`, about ten minutes on two cores.

Searched on errors that Figure 6 does not correct: those behind the 80 of its report, in the same shuffled order. Writes
`benchmarks/edit_settings.csv`, from which the defaults of `fine_tuning.FineTuning`, `CONSTRAINED_DEFAULT` and
`closed_form.LAMBDA` are taken, or confirmed.
"""

import argparse
from pathlib import Path

import pandas as pd

from interventions.editing.parameters import Fig6Parameters

from .edit_search import GRIDS, search

REPORTED = 80  # questions of Figure 6's report, params/figures/fig6.yaml
OUT = Path(__file__).parent / "edit_settings.csv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=10)
    parser.add_argument("--results-dir", default="results")
    options = parser.parse_args()
    parameters = Fig6Parameters(limit=REPORTED + options.items, tasks="correct", results_dir=options.results_dir)
    model, questions = parameters.load()
    wrong = {"correct": parameters.wrong_items(model, questions)["correct"][REPORTED:]}
    asked = model, wrong, parameters.whole_testbed(), parameters.references(model)
    tables = []
    for method in GRIDS:
        _, table = search(*asked, method, parameters.settings, run=parameters.run)
        print(f"\n{method}\n{table.to_string()}", flush=True)
        tables.append(table.assign(method=method))
    columns = ["method", "lam", "learning_rate", "epsilon", "steps", "efficacy", "generalisation", "specificity",
               "score", "seconds", "n"]
    pd.concat(tables)[columns].to_csv(OUT, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
