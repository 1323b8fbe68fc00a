"""Where `trace` has no advantage, or little: computed from the results, for the report."""

import re
from collections.abc import Iterator

# Names of ratios above 1 where ours is faster.
FASTER = r"(others|scaling)/.*/ratio|(tracing|standard)/.*/ratio_(naive|hooks|authors)|edit/ratio_.*"
LISTED = 8  # at most, of what is below 1


def findings(results: dict) -> Iterator[str]:
    """One paragraph or list a question: time, memory, arithmetic, forwards, the way to a server."""
    faster = select(results, FASTER)
    yield (
        f"**Time.** Our worst ratio is {_ratio(faster, min(faster, key=_value(faster)))}. "
        f"{_below(faster, 'slower than another way')}"
    )
    for family, what in (("others", "tool or way, on a whole question"), ("scaling", "setting")):
        part = select(faster, f"{family}/.*")
        if part:
            yield f"The worst of any {what}: {_ratio(part, min(part, key=_value(part)))}."
    memory = select(results, r"(others|scaling)/.*/memory_ratio")
    if memory:
        worst = min(memory, key=_value(memory))
        yield (
            f"**Memory.** {_below(memory, 'hungrier than another way')} At worst ours needs "
            f"{1 / memory[worst]['value']:.2f} times the memory, in `{worst}`."
        )
    floor = select(results, r"tracing/.*/ratio_floor")
    if floor:
        worst = max(floor, key=_value(floor))
        yield (
            f"**Arithmetic.** Ours takes {floor[worst]['value']:.1f} times the least arithmetic in `{worst}`: the rest "
            "is fixed cost, which a small model does not hide."
        )
    forwards = {
        name: entry for name, entry in select(results, r"attention/(?!.*(eager|memory)).*_in_forwards").items()
        if entry["value"] > 1
    }
    if forwards:
        listed = "; ".join(f"`{name}` {entry['value']:.2f}" for name, entry in forwards.items())
        yield f"**Attention.** More than a plain forward is needed for {listed}."
    remote = select(results, r"remote/.*/ratio_local")
    if remote:
        worst = max(remote, key=_value(remote))
        yield f"**A server.** On a local NDIF server, it takes up to {remote[worst]['value']:.1f} times (`{worst}`)."
    yield (
        "**What they can do and `trace` cannot.** The other tools run any function at any module. `trace` puts clean "
        "outputs of MLPs and attention back, over windows of layers, and nothing else."
    )


def select(results: dict, pattern: str) -> dict:
    return {name: entry for name, entry in results.items() if re.fullmatch(pattern, name)}


def _value(entries: dict):
    return lambda name: entries[name]["value"]


def _ratio(entries: dict, name: str) -> str:
    entry = entries[name]
    return f"{entry['value']:.2f} ({entry['low']:.2f} - {entry['high']:.2f}), `{name}`"


def _below(entries: dict, what: str) -> str:
    """How many of the ratios are below 1, the lowest by name, and in how many some repeat was."""
    below = sorted((name for name in entries if entries[name]["value"] < 1), key=_value(entries))
    some = sum(entry["low"] < 1 <= entry["value"] for entry in entries.values())
    text = f"Of {len(entries)} ratios, {len(below)} say that ours is {what}"
    listed = "; ".join(f"`{name}` {entries[name]['value']:.2f}" for name in below[:LISTED])
    text += f": {listed}{'; …' if len(below) > LISTED else ''}." if below else "."
    return text + (f" In {some} more, some repeat did." if some else "")
