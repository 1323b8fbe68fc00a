"""The page on benchmarks says what the results say, also where they are bad."""

import pytest

from benchmarks import measure, report, slower

MACHINE = measure.machine()


def entry(value: float, low: float | None = None, high: float | None = None, **more) -> dict:
    low, high = (value if bound is None else bound for bound in (low, high))
    return {"value": value, "low": low, "high": high, "n": 3, "machine": MACHINE, **more}


def compared(prefix: str, ratio: float, low: float | None = None, memory: float = 2.0) -> dict:
    """What a comparison saves."""
    found = {"ratio": entry(ratio, low), "memory_ratio": entry(memory)} | {
        key: entry(1.0) for key in ("ms_per_site", "ours_ms_per_site", "sites", "rows", "max_abs_diff")
    } | {"bytes": entry(2.0**21), "ours_bytes": entry(2.0**20)}
    return {f"{prefix}/{key}": number for key, number in found.items()}


def test_the_page_is_made_from_the_results():
    results = measure.load()
    assert report.README.read_text() == report.report(results)
    families = {name.partition("/")[0] for name in results} - {"choices", "definitions"}  # on a page of their own
    assert families <= {"others", "scaling", *report.FAMILIES}


def test_effects_are_values_over_questions():
    results = {"corruptions/known/chosen/mlp effect": entry(0.5), "testbed/import_released/memory_mb": entry(2, 1)}
    _, memory, _, effects = report.everything_else(results, [MACHINE])
    assert memory.splitlines()[0] == "| number | median (low - high) | repeats | machine |"
    head, _, row = effects.splitlines()
    assert head == "| number | value | questions | machine |"
    assert row == "| `known/chosen/mlp effect` | 0.5 | 3 | A |"


def test_others_are_listed_by_our_advantage():
    results = compared("others/mini/pyvene", 9.0, 8.0) | compared("others/mini/hooks", 2.0) | {
        "others/llava_shape/pyvene/refuses/image": entry(1.0, what="An image.", error="IndexError: no"),
        "others/mini/pyvene/refuses/image": entry(1.0, what="An image.", error="IndexError: no"),
        "others/mini/pyvene/refuses/name": entry(0.0, what="A name.", error=""),
    }
    head, table, _, refused = report.others(results)
    assert head.startswith("### `mini`")
    rows = table.splitlines()[2:]
    assert rows[0].startswith("| PyTorch hooks | 2 (2 - 2) |") and rows[1].startswith("| pyvene | 9 (8 - 9) |")
    assert refused == "- **pyvene** refused: An image. `IndexError: no` (on `llava_shape` and `mini`)"


def test_scaling_has_a_row_for_each_complete_setting():
    results = {}
    for way in report.WAYS_THAT_SCALE:
        results |= compared(f"scaling/layers/16/{way}", 4.0)
    results |= compared(f"scaling/layers/32/{report.WAYS_THAT_SCALE[0]}", 4.0)
    (table,) = report.scaling(results)
    head, _, row = table.splitlines()
    assert head.startswith("| layers | sites a question |")
    assert row.startswith("| 16 | 1 | 1 (1 - 1) | 4 (4 - 4) |") and row.endswith("| 1 | 2 | 2 | 2 |")


def test_what_is_slower_or_hungrier_is_named():
    results = (
        compared("others/mini/pyvene", 9.0) | compared("others/mini/hooks", 1.1, low=0.9)
        | compared("scaling/sites/8/hooks", 0.8, low=0.7, memory=0.5)
        | {"tracing/mini/ratio_floor": entry(12.9), "attention/whole_in_forwards": entry(1.13),
           "attention/eager_in_forwards": entry(1.8), "attention/mini/cost_in_forwards": entry(0.9),
           "remote/trusted/trace/ratio_local": entry(2.6)}
    )
    time, other, setting, memory, arithmetic, attention, server, _ = slower.findings(results)
    assert "Our worst ratio is 0.80 (0.70 - 0.80), `scaling/sites/8/hooks/ratio`" in time
    assert "Of 3 ratios, 1 say that ours is slower" in time and "In 1 more, some repeat did." in time
    assert "1.10 (0.90 - 1.10), `others/mini/hooks/ratio`" in other
    assert "`scaling/sites/8/hooks/ratio`" in setting
    assert "`scaling/sites/8/hooks/memory_ratio` 0.50" in memory and "2.00 times the memory" in memory
    assert "12.9 times" in arithmetic and "2.6 times" in server
    assert "`attention/whole_in_forwards` 1.13" in attention and "eager" not in attention and "cost" not in attention


def test_only_the_lowest_are_listed():
    results = {f"others/mini/way{i}/ratio": entry(0.9 - i / 100) for i in range(slower.LISTED + 1)}
    time, *_ = slower.findings(results)
    assert f"Of {slower.LISTED + 1} ratios, {slower.LISTED + 1} say that ours is slower" in time
    assert f"way{slower.LISTED}/ratio` 0.82; `" in time and "way0/" not in time and "; …." in time


def test_nothing_slower_is_said_with_the_count():
    time, *_ = slower.findings(compared("others/mini/pyvene", 9.0))
    assert "Of 1 ratios, 0 say that ours is slower than another way." in time


@pytest.mark.parametrize(("value", "text"), [
    (0, "0"), (3, "3"), (1.2345, "1.23"), (123.4, "123"), (29564342272, "29,564,342,272"), (3e-12, "3e-12"),
])
def test_numbers_have_three_digits(value, text):
    assert report.number(value) == text


def test_machines_are_told_apart_and_dated():
    other = MACHINE | {"cpu": "another"}
    dated = entry(1.0, date="2026-11-27", commit="abc", load=2.5) | {"machine": other}
    results = {"tracing/a": entry(1.0), "others/b": dated}
    results |= {f"scaling/{day}": dated | {"date": f"2026-12-0{day}"} for day in (3, 1)}
    machines = report.machines_of(results)
    assert machines == [MACHINE, other]
    rows = report.made_on(results, machines).splitlines()[2:]
    assert rows[0].endswith("| tracing | before dates were kept | not kept |")
    assert rows[1].startswith("| B | another |")
    assert rows[1].endswith("| others, scaling | 2026-11-27 to 2026-12-03 | 2.5 to 2.5 |")
