"""Pictures of a test bed: found under the name that a source gives them, checked, opened as RGB."""

from __future__ import annotations

import errno
import re
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps

from ..errors import TestBedError
from ..files import natural_order
from ..text import first_line, quoted

# No others: some of Pillow's start programs (EPS), or are read by code that was never meant for strangers' files.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


def load_image(image: str | Path | Image.Image) -> Image.Image:
    """The picture in a file, or one that is open, as a reader sees it: `on_white`.

    Raises TestBedError for what is no picture, cannot be decoded, or has more than `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    if isinstance(image, Image.Image):
        return _as_seen(image, f"image, a {type(image).__name__} that is open,")
    if not isinstance(image, (str, Path)) or re.match(r"data:|https?:", str(image)):
        raise TestBedError(f"image must be the path of a picture or a PIL image, not {quoted(image)}.")
    named = f"Image {quoted(Path(image))}"
    try:
        with _opened(image) as opened:
            return _as_seen(opened, named)
    except TestBedError:
        raise
    except Exception as error:  # decoders raise whatever they like
        if _is_of_the_machine(error):
            raise
        raise TestBedError(_unreadable(named, _problem_of(error, Path(image)))) from error


def small_image(path: str | Path, side: int) -> Image.Image:
    """The same, shrunk to at most `side` pixels wide and high."""
    image = load_image(path)
    image.thumbnail((side, side))
    return image


def on_white(image: Image.Image) -> Image.Image:
    """The picture as RGB in 8 bits, upright as its EXIF orientation says, transparent parts on white (a flag on a
    transparent ground must not turn black)."""
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _in_8_bits(image)
    palette = image.palette.mode if image.mode == "P" and image.palette else ""
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or palette.endswith("A") or "transparency" in image.info:
        layer = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")


def on_square(image: Image.Image, color: tuple[int, int, int]) -> Image.Image:
    """The picture in the middle of a square of its longer side: what LLaVA's and Bunny's original code does with it."""
    width, height = image.size
    side = max(width, height)
    square = Image.new("RGB", (side, side), color)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def seen_box(size: tuple[int, int], view: str) -> tuple[float, float, float, float]:
    """Left, top, width and height of what a model sees of a picture, in the picture's pixels.

    view: "cropped" (the central square), "padded" (the picture in a square, which is larger) or "squeezed" (all of it,
    made square), as `model.image_view` says.
    """
    width, height = size
    if view == "squeezed":
        return 0, 0, width, height
    side = min(size) if view == "cropped" else max(size)
    return (width - side) / 2, (height - side) / 2, side, side


def image_problem(path: Path) -> str:
    """Why a file is no picture that can be used, short; empty if it is one. It is decoded to its last row.

    A picture of more pixels than `PIL.Image.MAX_IMAGE_PIXELS` (89 million) is refused before it is decoded.
    """
    try:
        with _opened(path) as image:
            problem = _size_problem(image)
            if not problem:
                image.load()
            return problem
    except Exception as error:  # decoders raise whatever they like
        return _problem_of(error, path)


def _opened(path: str | Path) -> Image.Image:
    """An open file, not decoded yet. Pillow warns of pictures that are too large, which `_size_problem` refuses."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(path, formats=FORMATS)


def _as_seen(image: Image.Image, named: str) -> Image.Image:
    """`on_white` of a picture, if it is one. named: how a message calls it."""
    problem = _size_problem(image)
    if not problem:
        try:
            return on_white(image)
        except Exception as error:  # decoders raise whatever they like, and pictures are decoded only when looked at
            if _is_of_the_machine(error):
                raise
            raise TestBedError(_unreadable(named, first_line(error))) from error
    raise TestBedError(_unreadable(named, problem))


def _is_of_the_machine(error: Exception) -> bool:
    """Whether an error says nothing of the picture: no memory, a disk that fails, a file that may not be read.

    Errors of Pillow's own about a file have no number.
    """
    of_the_name = (None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP)
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno not in of_the_name)


def _unreadable(named: str, problem: str) -> str:
    return f"{named} cannot be read ({problem}): replace it or leave its item out."


def _size_problem(image: Image.Image) -> str:
    """Why a picture of this size cannot be used, short; empty if it can."""
    if min(image.size) < 2:
        return f"{image.width} x {image.height} pixels are no picture"
    limit = Image.MAX_IMAGE_PIXELS
    return f"it has more than {limit:,} pixels" if limit and image.width * image.height > limit else ""


def _problem_of(error: Exception, path: Path) -> str:
    """Why a file could not be opened or decoded, short."""
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {Image.MAX_IMAGE_PIXELS:,} pixels"
    if isinstance(error, FileNotFoundError):
        return "it is not there"
    try:
        head = path.open("rb").read(256).lstrip().lower() if path.is_file() else b""
        if head.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
            return "it is a web page, not a picture"
        if path.is_file() and not path.stat().st_size:
            return "it is empty"
    except (OSError, ValueError):  # a name that no file can have, or one that may not be read
        pass
    return f"it cannot be decoded ({_kind(error)})"


def _in_8_bits(image: Image.Image) -> Image.Image:
    """Grey values of 16 or 32 bits, or of floating point, as 8 bits. Pillow's own conversion cuts them off at 255.

    Such modes do not say what white is: the largest number of 8, 16 or 32 bits that holds all values, and 1 for
    floating-point values up to 1. Of mode "I;16" it is that of 16 bits.
    """
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0, neginf=0)
    if image.mode.startswith("I;16"):
        white = 2**16 - 1
    else:
        whites = (*((1,) if image.mode == "F" else ()), 2**8 - 1, 2**16 - 1, 2**31 - 1, 2**32 - 1)
        white = next((one for one in whites if values.max() <= one), values.max())
    grey = Image.fromarray(np.rint(np.clip(values / white, 0, 1) * 255).astype(np.uint8))
    clear = image.info.get("transparency")
    if clear is not None:  # one value, in the bits of the file
        grey.paste(255, mask=Image.fromarray(np.uint8(values == clear) * 255))
    return grey


def n_pixels(path: Path) -> int:
    """Of a picture without an `image_problem`."""
    with _opened(path) as image:
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
            raise TestBedError(f"images: {quoted(root)} is no folder: name the one that holds the pictures.")
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
        raise TestBedError(f"the image name {quoted(name)} leads out of the folder of images")
    return parts


def _key(name: str) -> str:
    return " ".join(unicodedata.normalize("NFC", name).casefold().split())

