"""Find, check and open the images of a test bed."""

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

# Other formats of Pillow start programs (EPS), or have decoders that are unsafe for untrusted files.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


def load_image(image: str | Path | Image.Image | None) -> Image.Image:
    """Return an image (a path, or an open one) as RGB in 8 bits, upright, with transparent parts on white (`on_white`).

    Raises:
        TestBedError: this is no image, cannot be decoded, or has more than `PIL.Image.MAX_IMAGE_PIXELS` pixels.
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
    except Exception as error:  # decoders raise any error
        if _is_of_the_machine(error):
            raise
        raise TestBedError(_unreadable(named, _problem_of(error, Path(image)))) from error


def small_image(path: str | Path | None, side: int) -> Image.Image:
    """Load an image and shrink it to at most `side` pixels wide and high."""
    image = load_image(path)
    image.thumbnail((side, side))
    return image


def on_white(image: Image.Image) -> Image.Image:
    """Return the image as RGB in 8 bits, upright by its EXIF orientation, with transparent parts on white."""
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _in_8_bits(image)
    palette = image.palette.mode if image.mode == "P" and image.palette else ""
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or palette.endswith("A") or "transparency" in image.info:
        layer = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")


def on_square(image: Image.Image, color: tuple[int, ...]) -> Image.Image:
    """Return the image centered in a square of its longer side, as the original code of LLaVA and Bunny does."""
    width, height = image.size
    side = max(width, height)
    square = Image.new("RGB", (side, side), color)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def seen_box(size: tuple[int, int], view: str) -> tuple[float, float, float, float]:
    """Return left, top, width and height of what a model sees of an image, in pixels of the image.

    Args:
        size: width and height of the image.
        view: `model.image_view`: "cropped" (the central square), "padded" (the image in a larger square) or "squeezed"
            (the whole image, made square).
    """
    width, height = size
    if view == "squeezed":
        return 0, 0, width, height
    side = min(size) if view == "cropped" else max(size)
    return (width - side) / 2, (height - side) / 2, side, side


def image_problem(path: Path) -> str:
    """Return in a few words why a file is no usable image, or "". The whole image is decoded.

    An image with more than `PIL.Image.MAX_IMAGE_PIXELS` pixels (89 million) is refused before it is decoded.
    """
    try:
        with _opened(path) as image:
            problem = _size_problem(image)
            if not problem:
                image.load()
            return problem
    except Exception as error:  # decoders raise any error
        return _problem_of(error, path)


def _opened(path: str | Path) -> Image.Image:
    """An open file, not decoded yet. `_size_problem` refuses large images, so Pillow need not warn of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(path, formats=FORMATS)


def _as_seen(image: Image.Image, named: str) -> Image.Image:
    """`on_white` of an image. named: its name in a message."""
    problem = _size_problem(image)
    if not problem:
        try:
            return on_white(image)
        except Exception as error:  # decoders raise any error, and images are decoded late
            if _is_of_the_machine(error):
                raise
            raise TestBedError(_unreadable(named, first_line(error))) from error
    raise TestBedError(_unreadable(named, problem))


def _is_of_the_machine(error: Exception) -> bool:
    """Whether an error is no fault of the image (memory, disk, permission). Errors of Pillow have no errno."""
    of_the_name = (None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP)
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno not in of_the_name)


def _unreadable(named: str, problem: str) -> str:
    return f"{named} cannot be read ({problem}): replace it or leave its item out."


def _size_problem(image: Image.Image) -> str:
    """Why an image of this size cannot be used, or ""."""
    if min(image.size) < 2:
        return f"{image.width} x {image.height} pixels are no picture"
    limit = Image.MAX_IMAGE_PIXELS
    return f"it has more than {limit:,} pixels" if limit and image.width * image.height > limit else ""


def _problem_of(error: Exception, path: Path) -> str:
    """Why a file could not be opened or decoded, in a few words."""
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
    text = first_line(error)  # it may name the path
    return f"it cannot be decoded ({'unknown format' if 'cannot identify' in text else text})"


def _in_8_bits(image: Image.Image) -> Image.Image:
    """Gray values of 16 or 32 bits, or floating point, as 8 bits. Pillow's own conversion cuts them off at 255.

    White is the largest number of 8, 16 or 32 bits that holds all values, and 1 for floating-point values up to 1. In
    mode "I;16" it is that of 16 bits.
    """
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0, neginf=0)
    if image.mode.startswith("I;16"):
        white = 2**16 - 1
    else:
        whites = (*((1,) if image.mode == "F" else ()), 2**8 - 1, 2**16 - 1, 2**31 - 1, 2**32 - 1)
        white = next((one for one in whites if values.max() <= one), values.max())
    gray = Image.fromarray(np.rint(np.clip(values / white, 0, 1) * 255).astype(np.uint8))
    clear = image.info.get("transparency")
    if clear is not None:  # one value, in the bits of the file
        gray.paste(255, mask=Image.fromarray(np.uint8(values == clear) * 255))
    return gray


def n_pixels(path: Path) -> int:
    """Return the number of pixels of an image without an `image_problem`."""
    with _opened(path) as image:
        return image.width * image.height


class ImageFolder:
    """A downloaded folder of images, whose names may differ in Unicode form, case and outer space."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser()
        if not self.root.is_dir():
            raise TestBedError(f"images: {quoted(root)} is no folder: name the one that holds the pictures.")
        self._listed: dict[Path, dict[str, list[str]]] = {}
        self._named: set[str] = set()  # requested entries of the root

    def find(self, name: str) -> tuple[list[Path], bool]:
        """Return the images in the folder `name`, or the one image, and whether the name is spelled differently here.
        """
        spellings, parts = [], safe_parts(name)
        for part in parts:
            spelled = self._spelling(self.root.joinpath(*spellings), part)
            if spelled is None:
                return [], False
            spellings.append(spelled)
        self._named.add(spellings[0])
        return self._pictures(self.root.joinpath(*spellings)), tuple(spellings) != parts

    def unnamed(self) -> list[str]:
        """Return the folders directly under the root that were not requested."""
        return sorted(path.name for path in self.root.iterdir() if path.is_dir() and path.name not in self._named)

    def _pictures(self, place: Path) -> list[Path]:
        if not place.is_dir():  # a broken link is a missing image
            return [place]
        files = (path for path in place.iterdir() if path.suffix.lower() in ENDINGS and not path.name.startswith("."))
        return sorted(files, key=lambda path: natural_order(path.name))

    def _spelling(self, place: Path, part: str) -> str | None:
        """The spelling of a name in a folder: the same, or the first that differs only in form, case or space."""
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
    """Return `ImageFolder.find` of the first name that exists, in the first folder with any of the names."""
    # Search every folder, so that `unnamed` counts what a row names in a later one.
    found = [next((pair for pair in map(folder.find, names) if pair[0]), ([], False)) for folder in folders]
    return next((pair for pair in found if pair[0]), ([], False))


def safe_parts(name: str) -> tuple[str, ...]:
    """Return the parts of a relative path. Raise TestBedError if it leads out of its folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    parts = tuple(part for part in path.parts if part != ".")
    if path.is_absolute() or ".." in parts or "\0" in name or re.match(r"[A-Za-z]:", name) or not parts:
        raise TestBedError(f"the image name {quoted(name)} leads out of the folder of images")
    return parts


def _key(name: str) -> str:
    return " ".join(unicodedata.normalize("NFC", name).casefold().split())
