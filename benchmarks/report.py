"""Writes `benchmarks/README.md` from `benchmarks/results.json`: `python -m benchmarks.report`."""

from collections.abc import Iterator
from pathlib import Path

from . import measure, slower
from .compare import TOLERANCE
from .scaling import HIDDEN, SETTINGS, SIDE, WAYS_THAT_SCALE
from .ways import WAYS

README = Path(__file__).parent / "README.md"
NAMES = {
    "pyvene": "pyvene", "transformer_lens": "TransformerLens", "nnsight": "nnsight", "hooks": "PyTorch hooks",
    "hooks_cached": "hooks, prefix cached", "authors": "authors' protocol",
}
SUBJECTS = {
    "llava_shape": "LLaVA-1.5's prompt of 606 tokens and its vocabulary, random weights, 8 layers, hidden size 512",
    "mini": "the embedded model, 8 layers, hidden size 192, 77 tokens",
}
FAMILIES = {  # of the other benchmarks -> (command, what was measured)
    "tracing": ("tracing", "Tracing one question in one process; `ratio_floor`: our time over the least arithmetic"),
    "standard": ("standard", "Tracing under noise, against one trace a site"),
    "attention": ("attention", "Attention contributions and knock-outs, in plain forwards"),
    "edit": ("editing", "The closed form and the optimized value of an edit, against the usual ways"),
    "testbed": ("testbed", "Importing the released files at full size; `ratio_decoding`: over decoding the pictures"),
    "corruptions": ("corruptions", "No speed: effects with replacement phrases made by hand and chosen automatically"),
    "remote": ("remote", "What a question costs on a local NDIF server, over what it costs without one"),
    "gpu": ("gpu", "A question of LLaVA-1.5-7B's size on a GPU"),
    "rehearsal": ("rehearsal whole", "A question of LLaVA-1.5-7B's size on a CPU, random weights"),
}


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---", *["---:"] * (len(head) - 1)], *rows])


def number(value: float) -> str:
    """Three digits, and thousands separated."""
    if value == 0 or 0.001 <= abs(value) < 1e15:
        return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
    return f"{value:.0e}"


def times(entry: dict) -> str:
    """Median (lowest - highest) of a ratio."""
    return f"{number(entry['value'])} ({number(entry['low'])} - {number(entry['high'])})"


def mib(entry: dict) -> str:
    return f"{entry['value'] / 2**20:,.0f}"


def others(results: dict) -> Iterator[str]:
    """A table a subject, the smallest advantage first; then what the tools refused."""
    for subject, what in SUBJECTS.items():
        found = {way: numbers_under(results, f"others/{subject}/{way}/") for way in WAYS}
        found = {way: row for way, row in found.items() if "ratio" in row}
        if not found:
            continue
        order = sorted(found, key=lambda way: found[way]["ratio"]["value"])
        yield f"### `{subject}`: {what}, {number(found[order[0]]['sites']['value'])} sites"
        yield table(
            ["way", "ours is faster (times)", "ms a site", "rows a forward", "ours, ms a site", "memory over ours",
             "largest difference of P"],
            [[NAMES[way], times(row["ratio"]), times(row["ms_per_site"]), number(row["rows"]["value"]),
              times(row["ours_ms_per_site"]), number(row["memory_ratio"]["value"]),
              f"{row['max_abs_diff']['value']:.0e}"] for way in order for row in [found[way]]],
        )
    refused = {}
    for name, entry in results.items():
        if "/refuses/" in name and entry["value"]:
            _, subject, way, *_ = name.split("/")
            line = f"- **{NAMES[way]}** refused: {entry['what']} `{entry['error']}`"
            refused.setdefault(line, []).append(f"`{subject}`")
    if refused:
        yield "What a tool could not do here, in its own words:"
        yield "\n".join(f"{line} (on {' and '.join(subjects)})" for line, subjects in refused.items())


def scaling(results: dict) -> Iterator[str]:
    for axis, values in SETTINGS.items():
        rows = []
        for value in values:
            found = [numbers_under(results, f"scaling/{axis}/{value}/{way}/") for way in WAYS_THAT_SCALE]
            if all(found):
                rows.append([
                    f"{value:,}", number(found[0]["sites"]["value"]), times(found[0]["ours_ms_per_site"]),
                    *(times(way["ratio"]) for way in found),
                    mib(found[0]["ours_bytes"]), *(mib(way["bytes"]) for way in found),
                ])
        if rows:
            names = [NAMES[way] for way in WAYS_THAT_SCALE]
            yield table(
                [axis.replace("_", " "), "sites a question", "ours, ms a site",
                 *(f"faster than {name}" for name in names), "ours, MiB", *(f"{name}, MiB" for name in names)], rows,
            )


def everything_else(results: dict, machines: list[dict]) -> Iterator[str]:
    for family, (command, what) in FAMILIES.items():
        head, cell = ["number", "median (low - high)", "repeats", "machine"], times
        if family == "corruptions":  # of many questions, measured once
            head, cell = ["number", "value", "questions", "machine"], lambda entry: number(entry["value"])
        rows = [
            [f"`{name.partition('/')[2]}`", cell(entry), str(entry["n"]), letter(machines, entry)]
            for name, entry in results.items() if name.startswith(f"{family}/")
        ]
        if rows:
            yield f"### `{family}`, by `python -m benchmarks.{command}`\n\n{what}."
            yield table(head, rows)


def numbers_under(results: dict, prefix: str) -> dict:
    return {name.removeprefix(prefix): entry for name, entry in results.items() if name.startswith(prefix)}


def machines_of(results: dict) -> list[dict]:
    found = []
    for entry in results.values():
        if entry["machine"] not in found:
            found.append(entry["machine"])
    return found


def letter(machines: list[dict], entry: dict) -> str:
    return chr(ord("A") + machines.index(entry["machine"]))


def made_on(results: dict, machines: list[dict]) -> str:
    rows = []
    for machine in machines:
        here = {name: entry for name, entry in results.items() if entry["machine"] == machine}
        families = sorted({name.partition("/")[0] for name in here})
        dates = sorted({entry["date"] for entry in here.values() if "date" in entry})
        loads = [entry["load"] for entry in here.values() if "load" in entry]
        rows.append([
            chr(ord("A") + len(rows)), machine["cpu"], f"{machine['cores']}, {machine['threads']}", machine["device"],
            f"{machine['memory_gb']} GB", f"Python {machine['python']}, torch {machine['torch']}", ", ".join(families),
            " to ".join(dict.fromkeys([*dates[:1], *dates[-1:]])) or "before dates were kept",
            f"{min(loads)} to {max(loads)}" if loads else "not kept",
        ])
    return table(
        ["machine", "processor", "cores, threads used", "device", "memory", "software", "benchmarks", "made", "load"],
        rows,
    )


def report(results: dict) -> str:
    machines = machines_of(results)
    versions = {}
    for entry in results.values():
        for package, version in entry.get("versions", {}).items():
            versions.setdefault(package, set()).add(version)
    used = ", ".join(f"{package} {' and '.join(sorted(found))}" for package, found in sorted(versions.items()))
    ways = "\n".join(f"- **{NAMES[name]}**: {way.ask.__doc__.splitlines()[0]}" for name, way in WAYS.items())
    parts = [
        "# Benchmarks",
        "Made from `results.json` by `python -m benchmarks.report`; a test checks that. Numbers are medians of "
        "repeats, with the lowest and the highest.",
        "    make bench         # ours against baselines in the package's own environment\n"
        "    make bench-others  # against other tools, and how it scales, in `.venv-bench`",
        made_on(results, machines),
        "`load` is how many processes ran or waited on average over the last minute, this one included: above the "
        "number of threads used, others were using the machine, too.",
        f"Versions in the comparison with other tools: {used}.",
        "## Tracing against other tools",
        "The same model, question and sites, each tool in a process of its own. Outputs are compared before times are: "
        f"where P_restored differs by more than {TOLERANCE:.0e} at a site, or no site shows an effect, there is no "
        "time. All get the cheapest form that their users could write:",
        ways,
        "But for the authors' protocol, all of them encode the image once a question, compute the last token's logits "
        "only, and run as many rows in a forward as make a site cheapest. Our time is that of a whole question, "
        "clean and corrupted run included, over its sites. Theirs is measured at some of the sites, 16 or more a "
        "repeat, and carried over to all, with what they need once a question. Both are processor time of one thread, "
        "in alternation. Memory is the peak of tensors beyond the weights; theirs grows with the rows of a forward, "
        "which are chosen for speed.",
        *others(results),
        "## How it grows",
        f"Random weights of hidden size {HIDDEN}, {SETTINGS['layers'][0]} layers and {SIDE**2} visual tokens, unless "
        "they are what changes; for questions, the embedded model. The other ways are measured at 8 sites or more a "
        "repeat and carried over to all. *Faster than* is our advantage in times.",
        *scaling(results),
        "## What was slower, and where the others are better",
        *slower.findings(results),
        "## The other benchmarks",
        *everything_else(results, machines),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    README.write_text(report(measure.load()))
    print(f"written to {README}")
