"""Read and write the table of a test bed, `items.parquet`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import TestBedError
from ..files import is_file, write_atomically
from ..text import first_line, quoted
from .images import safe_parts
from .schema import EMBEDDED, SMOL_TABLE, TABLE, Item, TestBed

PACKAGED = {"embedded": TABLE, "smol": SMOL_TABLE}  # test beds of the package -> table
_TEXT, _TEXTS = pa.string(), pa.list_(pa.string())
_TYPES = {
    "id": _TEXT, "part": _TEXT, "question": _TEXT, "image": _TEXT, "visual_constraint": _TEXT,
    "visual_replacement": _TEXT, "text_constraint": _TEXT, "text_replacement": _TEXT, "answers": _TEXTS,
    "paraphrases": _TEXTS, "entity": _TEXT, "relation": _TEXT, "split": _TEXT, "style": _TEXT,
    "held_out_style": pa.bool_(),
}
_NULLABLE = ("image", "text_constraint", "text_replacement")
COLUMNS = pa.schema([pa.field(name, kind, nullable=name in _NULLABLE) for name, kind in _TYPES.items()])
OPTIONAL_COLUMNS = pa.schema([pa.field("annotations", _TEXTS)])


def load_testbed(name: str | Path = "embedded") -> TestBed:
    """Load a test bed. Images are opened later, so a missing one costs only its own question.

    Args:
        name: a folder with `items.parquet` and `images/`; "embedded" for the sample in the package; or "smol" for the
            same questions with replacements and splits for the pretrained models.

    Raises:
        TestBedError: there is no such folder, or the table or a row is malformed.
    """
    packaged = PACKAGED.get(str(name))
    directory = EMBEDDED if packaged else Path(name).expanduser()
    path = directory / (packaged or TABLE)
    if not is_file(path):
        raise TestBedError(
            f"Unknown test bed {quoted(Path(name))}: use {', '.join(map(repr, PACKAGED))} or a directory that holds "
            f"{TABLE} and images/."
        )
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise TestBedError(f"{path} is not a readable parquet table ({first_line(error)}).") from error
    missing = [name for name in COLUMNS.names if name not in table.column_names]
    if missing:
        raise TestBedError(f"{path} lacks the column(s) {', '.join(missing)}: see testbed.Item.")
    try:
        schema = _with_optional(name for name in OPTIONAL_COLUMNS.names if name in table.column_names)
        rows = table.select(schema.names).cast(schema).to_pylist()
    except (pa.ArrowException, ValueError) as error:
        raise TestBedError(f"{path} has a column of the wrong type ({first_line(error)}).") from error
    items = tuple(_item(row, directory.resolve()) for row in rows)
    _check_ids(items, path)
    return TestBed(str(name), directory.resolve(), items)


def save_testbed(
    items: Iterable[Item], directory: str | Path, card: str | None = None, *, name: str = TABLE
) -> Path:
    """Write `items.parquet` into a folder and return its path. An optional column is written only if it has values.

    Args:
        items: the items. Their images must lie in the folder; they are not copied.
        card: the text of the dataset card `README.md`.
        name: the file's name.

    Raises:
        TestBedError: an id occurs twice, or an image lies elsewhere.
    """
    directory = Path(directory).resolve()
    items = tuple(items)
    _check_ids(items, directory / name)
    schema = _with_optional(column for column in OPTIONAL_COLUMNS.names if any(getattr(item, column) for item in items))
    rows = [{column: getattr(item, column) for column in schema.names} for item in items]
    for row in rows:
        row["image"] = _relative(row["image"], directory, row["id"])
    table = pa.Table.from_pylist(rows, schema=schema)
    write_atomically(directory / name, lambda path: pq.write_table(table, path, compression="zstd"))
    if card is not None:
        write_atomically(directory / "README.md", lambda path: path.write_text(card, encoding="utf-8"))
    return directory / name


def _with_optional(names: Iterable[str]) -> pa.Schema:
    return pa.schema([*COLUMNS, *map(OPTIONAL_COLUMNS.field, names)])


def _item(row: dict, directory: Path) -> Item:
    image = row.pop("image")
    for name in ("answers", "paraphrases", "annotations"):
        row[name] = tuple(row.get(name) or ())
    try:
        path = None if image is None else directory.joinpath(*safe_parts(image))
    except TestBedError as error:
        raise TestBedError(f"Item {quoted(row['id'])}: {error}: name one below images/.") from error
    return Item(**row, image=path)


def _check_ids(items: tuple[Item, ...], path: Path) -> None:
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise TestBedError(f"{path} has the id {quoted(item.id)} twice.")
        seen.add(item.id)


def _relative(image: Path | None, directory: Path, item_id: str) -> str | None:
    if image is None:
        return None
    image = Path(image)
    if image.is_absolute():
        # As named first: an image, or all of images/, may be a link to another place.
        named = (image, image.parent.resolve() / image.name, image.resolve())
        inside = next((path for path in named if ".." not in path.parts and path.is_relative_to(directory)), None)
        if inside is None:
            raise TestBedError(
                f"Item {quoted(item_id)}: its image {quoted(image)} must lie in {quoted(directory)}: copy it to "
                "images/ there."
            )
        image = inside.relative_to(directory)
    return "/".join(safe_parts(image.as_posix()))
