"""The dataset card of a test bed: its contents, its sources, how to load it, and whom to cite."""

from __future__ import annotations

from pathlib import Path

import yaml

from ..files import write_atomically
from .schema import TABLE, Item, TestBed

CARD, CITATIONS = (Path(__file__).with_name(name) for name in ("card.md", "citations.yaml"))


def write_card(testbed: TestBed, steps: list[dict]) -> Path:
    """Write the card of a test bed and return its path."""
    citations = yaml.safe_load(CITATIONS.read_text(encoding="utf-8"))
    text = CARD.read_text(encoding="utf-8").format(
        table=TABLE, name=testbed.directory.name, directory=testbed.directory.name, n=len(testbed),
        counts="\n".join(_counts(testbed)), steps="\n".join(map(_step, steps)) or "By hand.",
        citations="\n".join(f"- {text}" for part, text in citations.items() if part == "all" or part in testbed.parts))
    path = testbed.directory / "README.md"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path


def _counts(testbed: TestBed):
    for part in testbed.parts:
        for constraints in ("single", "multi"):
            items = testbed.select(part, constraints).items
            if items:
                images = len({item.image for item in items} - {None})
                numbers = [len(items), images, *(sum(map(bool, map(has, items))) for has in (
                    lambda item: item.visual_constraint, _is_replaceable, lambda item: item.annotations,
                    lambda item: item.paraphrases,
                ))]
                yield f"| `{part}` | {constraints} | " + " | ".join(map(str, numbers)) + " |"


def _is_replaceable(item: Item) -> bool:
    return bool(item.visual_replacement) and (item.text_constraint is None or bool(item.text_replacement))


def _step(step: dict) -> str:
    """A step as a list entry, with its inputs below."""
    versions = ", ".join(f"{name} {version}" for name, version in step["versions"].items())
    lines = [f"- **{step['command']}**, {step['time']} ({versions})"]
    for title in ("settings", "counts"):
        values = ", ".join(f"{name} {value}" for name, value in step[title].items())
        lines += [f"  - {title}: {values}"] if values else []
    for file in step["inputs"]:
        lines.append(f"  - read: `{file['name']}`, {file['bytes']:,} bytes, sha256 `{file['sha256']}`")
    return "\n".join(lines)
