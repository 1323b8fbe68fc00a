"""Drawings of the icon sets and the photographs, written as small webp files (used by `collect.py`)."""

import csv
import io
import json
import re
import unicodedata
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

from ..world import HELD_OUT_STYLE, PHOTO

SIZE = 96  # side of a drawing, pixels
PHOTO_SIDE = 192  # longer side of a photograph, pixels
FLAG_STYLES = ("flag-icons", "circle-flags", "flagpack", "emojione", HELD_OUT_STYLE)
THING_STYLES = ("noto", "noto-v1", "fluent-emoji-flat", "emojione", HELD_OUT_STYLE)
COLUMNS = ("file", "entity", "style", "author", "source", "licence")


def slug(text: str) -> str:
    """'Côte d’Ivoire' -> 'cote-d-ivoire'."""
    plain = "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")


def rasterise(svg: str) -> Image.Image:
    """SVG text -> RGBA [96, 96], aspect kept, centered, transparent margins."""
    png = resvg_py.svg_to_bytes(svg_string=svg, width=2 * SIZE)
    drawing = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    drawing.thumbnail((SIZE, SIZE), Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (SIZE, SIZE), (0, 0, 0, 0))
    canvas.paste(drawing, ((SIZE - drawing.width) // 2, (SIZE - drawing.height) // 2))
    # 64 colors a drawing: invisible at this size, and a third smaller
    return canvas.quantize(64, method=Image.Quantize.FASTOCTREE).convert("RGBA")


class IconSet:
    """One icon set: `svg(names, emoji)` is the first icon found, by code points and then by name."""

    def __init__(self, npm: Path, style: str):
        self.style = style
        if style == "flag-icons":  # plain files, no iconify JSON
            self.folder = npm / "flag-icons"
            package = json.loads((self.folder / "package.json").read_text())
            self.author = re.sub(r"\s*<.*?>", "", package["author"])
            self.licence, url = package["license"], package["repository"]["url"]
        else:
            self.folder = npm / "@iconify-json" / style
            package = json.loads((self.folder / "package.json").read_text())
            info = json.loads((self.folder / "info.json").read_text())
            self.author, self.licence, url = (
                info["author"]["name"],
                info["license"]["spdx"],
                info["author"]["url"],
            )
            self.icons = json.loads((self.folder / "icons.json").read_text())
            self.characters = json.loads((self.folder / "chars.json").read_text())
        self.source = f"npm {package['name']} {package['version']} ({url})"

    def svg(self, names: list[str], emoji: str = "") -> tuple[str, str] | None:
        """(icon name, SVG text), or None where the set has no such icon."""
        if self.style == "flag-icons":
            path = self.folder / "flags" / "4x3" / f"{names[0]}.svg"
            return (names[0], path.read_text()) if path.exists() else None
        points = "-".join(f"{ord(c):x}" for c in emoji if c != "\ufe0f")
        icons, aliases = self.icons["icons"], self.icons.get("aliases", {})
        for name in [self.characters.get(points), *names]:
            top = name
            while name not in icons and name in aliases:
                name = aliases[name]["parent"]
            if name in icons:
                return top, self._document(icons[name])
        return None

    def _document(self, icon: dict) -> str:
        width, height = (icon.get(k, self.icons.get(k, 16)) for k in ("width", "height"))
        box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
        namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        return f'<svg {namespaces} viewBox="{box}" width="{width}" height="{height}">{icon["body"]}</svg>'


class Collected:
    """Pictures found for each entity; nothing is written before `save`."""

    def __init__(self, npm: Path):
        self.sets = {s: IconSet(npm, s) for s in dict.fromkeys(FLAG_STYLES + THING_STYLES)}
        self.images: dict[tuple[str, str], Image.Image] = {}  # (style, entity) -> picture
        self.origin: dict[tuple[str, str], tuple[str, str, str]] = {}  # -> author, source, license

    def draw(self, entity: str, styles: tuple[str, ...], names: list[str], emoji: str = "") -> list[str]:
        """Adds the entity's drawing in each style that has it; returns these styles."""
        found = []
        for style in styles:
            icons = self.sets[style]
            if (hit := icons.svg(names, emoji)) is not None:
                self.images[style, entity] = rasterise(hit[1])
                self.origin[style, entity] = (icons.author, f"{icons.source}, icon {hit[0]}", icons.licence)
                found.append(style)
        return found

    def photograph(self, entity: str, path: Path, entry: dict) -> None:
        """Adds one photograph of the manifest."""
        image = Image.open(path).convert("RGB")
        image.thumbnail((PHOTO_SIDE, PHOTO_SIDE), Image.Resampling.LANCZOS)
        self.images[PHOTO, entity] = image
        source = f"{entry['source']} (by way of {entry['package']})"
        self.origin[PHOTO, entity] = (entry["author"], source, entry["licence"])

    def drop(self, entity: str) -> None:
        for key in [k for k in self.images if k[1] == entity]:
            del self.images[key], self.origin[key]

    def difference(self, a: str, b: str, style: str) -> float:
        """Share of the pixels of two drawings that clearly differ (more than 64 of 255 in a channel)."""
        x, y = (np.asarray(self.images[style, e], dtype=np.float32) for e in (a, b))
        return float((np.abs(x - y).max(-1) > 64).mean())

    def save(self, out: Path) -> None:
        """Writes `images/<style>/<entity>.webp` and `pictures.csv`."""
        rows = []
        for (style, entity), image in sorted(self.images.items(), key=lambda item: item[0]):
            path = out / "images" / style / f"{entity}.webp"
            path.parent.mkdir(parents=True, exist_ok=True)
            if style == PHOTO:
                image.save(path, quality=85, method=6)
            else:
                image.save(path, lossless=True, method=6)
            rows.append((path.relative_to(out).as_posix(), entity, style, *self.origin[style, entity]))
        with (out / "pictures.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
