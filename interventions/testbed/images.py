"""Pictures of a test bed: found under the name that a source gives them, checked, opened as RGB."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from PIL import Image

from ..files import natural_order
from .errors import TestBedError, first_line

# No others: some of Pillow's start programs (EPS), or are read by code that was never meant for strangers' files.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


def load_image(path: str | Path) -> Image.Image:
    """The picture in a file, as `on_white` has it; one that cannot be read is a `TestBedError`."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return on_white(image)
    except Exception as error:  # decoders raise whatever they like
        raise TestBedError(
            f"Image {str(path)!r} cannot be read ({first_line(error)}): replace it or leave its item out."
        ) from error


def small_image(path: str | Path, side: int) -> Image.Image:
    """The same, shrunk to at most `side` pixels wide and high."""
    image = load_image(path)
    image.thumbnail((side, side))
    return image


def on_white(image: Image.Image) -> Image.Image:
    """The picture as RGB, transparent parts on white (a flag on a transparent ground must not turn black)."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")


def image_problem(path: Path) -> str:
    """Why a file is no picture that can be used, short; empty if it is one. It is decoded to its last row.

    A picture of more pixels than `PIL.Image.MAX_IMAGE_PIXELS` (89 million) is refused before it is decoded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                if min(image.size) < 2:
                    return f"{image.width} x {image.height} pixels are no picture"
                image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return f"it has more than {Image.MAX_IMAGE_PIXELS:,} pixels"
    except FileNotFoundError:
        return "it is not there"
    except Exception as error:  # decoders raise whatever they like
        head = path.open("rb").read(256).lstrip().lower() if path.is_file() else b""
        if head.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
            return "it is a web page, not a picture"
        return "it is empty" if path.is_file() and not path.stat().st_size else f"it cannot be decoded ({_kind(error)})"
    return ""


def n_pixels(path: Path) -> int:
    """Of a picture without an `image_problem`."""
    with Image.open(path, formats=FORMATS) as image:
        return image.width * image.height


def _kind(error: BaseException) -> str:
    """An error without the path that it may name."""
    text = first_line(error)
    return "unknown format" if "cannot identify" in text else text


class ImageFolder:
    """A folder of pictures as somebody downloaded it: names may differ in Unicode form, case and outer space.

    `find("./A photo of Beyoncé")` returns the pictures of that folder in the order of their numbers, or that one
    picture, and whether the name is spelt another way here. Raises `TestBedError` if the folder is not there, or if a
    name leads out of it.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser()
        if not self.root.is_dir():
            raise TestBedError(f"images: {str(root)!r} is no folder: name the one that holds the pictures.")
        self._listed: dict[Path, dict[str, list[str]]] = {}
        self._named: set[str] = set()  # entries of the root that were asked for, to tell afterwards which were not

    def find(self, name: str) -> tuple[list[Path], bool]:
        """The pictures that a source calls `name` (none: there are none), and whether it is spelt another way here."""
        spellings, parts = [], safe_parts(name)
        for part in parts:
            spelt = self._spelling(self.root.joinpath(*spellings), part)
            if spelt is None:
                return [], False
            spellings.append(spelt)
        self._named.add(spellings[0])
        return self._pictures(self.root.joinpath(*spellings)), tuple(spellings) != parts

    def unnamed(self) -> list[str]:
        """Folders directly under the root that nobody asked for."""
        return sorted(path.name for path in self.root.iterdir() if path.is_dir() and path.name not in self._named)

    def _pictures(self, place: Path) -> list[Path]:
        if not place.is_dir():  # a link that leads nowhere is a picture that is not there
            return [place]
        files = (path for path in place.iterdir() if path.suffix.lower() in ENDINGS and not path.name.startswith("."))
        return sorted(files, key=lambda path: natural_order(path.name))

    def _spelling(self, place: Path, part: str) -> str | None:
        """How a name is spelt in a folder: as it is, or the first that differs in nothing a reader sees."""
        if not place.is_dir():
            return None
        if place not in self._listed:
            names: dict[str, list[str]] = {}
            for path in sorted(place.iterdir()):
                names.setdefault(_key(path.name), []).append(path.name)
            self._listed[place] = names
        found = self._listed[place].get(_key(part), [])
        return part if part in found else next(iter(found), None)


def find_in(folders: Iterable[ImageFolder], names: Sequence[str]) -> tuple[list[Path], bool]:
    """`ImageFolder.find` of the first of these names that the first folder that has any of them has."""
    # Every folder is asked, too: what a row names in one of the later is not unnamed.
    found = [next((pair for pair in map(folder.find, names) if pair[0]), ([], False)) for folder in folders]
    return next((pair for pair in found if pair[0]), ([], False))


def safe_parts(name: str) -> tuple[str, ...]:
    """The parts of a relative path. Raises `TestBedError` for one that leads out of its folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    parts = tuple(part for part in path.parts if part != ".")
    if path.is_absolute() or ".." in parts or "\0" in name or re.match(r"[A-Za-z]:", name) or not parts:
        raise TestBedError(f"the image name {name!r} leads out of the folder of images")
    return parts


def _key(name: str) -> str:
    return " ".join(unicodedata.normalize("NFC", name).casefold().split())

