"""What docs/figures.md says of transplants is what the committed reports have."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEADER = "| figure | model | restored at the | part | layer | effect |"
RECORDS = {("3", "mini"): "mini/fig3_trace", ("3", "smol"): "smol/fig3_trace",
           ("10", "mini-bunny"): "mini/fig10_questions", ("4", "mini"): "mini/fig4_constraints"}


def written() -> list[list[str]]:
    """The cells of each row of the table."""
    text = (ROOT / "docs" / "figures.md").read_text().partition(HEADER)[2]
    return [re.split(r" *\| *", line)[1:-1] for line in text.partition("\n\n")[0].splitlines()[2:]]


def rounded(number: dict) -> str:
    interval = [f"{number[name]:z.2f}" for name in ("value", "low", "high")]
    return f"{interval[0]} [{interval[1]}, {interval[2]}]"


@pytest.mark.parametrize("cells", written(), ids=lambda cells: " ".join(cells[:4]))
def test_a_row_has_the_numbers_of_its_report(cells):
    figure, model, where, part, *_ = cells
    record = json.loads((ROOT / "reports" / f"{RECORDS[figure, model.strip('`')]}.record.json").read_text())
    assert record["parameters"]["model"] == model.strip("`")
    layer, effect, fact, word = (
        record["numbers"][f"{part}/mlp/transplant/{where}/{name}"] for name in ("layer", "effect", "fact", "word")
    )
    assert cells[4:] == [str(layer["value"]), f"{effect['value']:.2f}", rounded(fact), rounded(word)]


def test_every_report_of_the_table_has_all_parts():
    assert [tuple(cells[:2]) for cells in written()] == [
        (figure, f"`{model}`") for figure, model in RECORDS for _ in range(3)
    ]
