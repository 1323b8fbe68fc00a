"""Test beds: what an item must hold, and that they come back from disk as they were saved."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
from PIL import Image
from transformers.image_utils import load_image as transformers_load_image

from interventions.errors import PromptError
from interventions.prompts.prompt import build_prompt
from interventions.studies.replacements import choose_corruptions, write_corruptions
from interventions.testbed import Item, TestBed, TestBedError, load_image, load_testbed, on_white, save_testbed
from interventions.testbed.images import image_problem, on_square, seen_box
from interventions.testbed.table import COLUMNS
from interventions.text import first_line, quoted


def item(number: int = 0, part: str = "known", **changes) -> Item:
    fields = {
        "id": f"{part}-{number}",
        "part": part,
        "question": "The capital of this country is",
        "image": None,
        "visual_constraint": "this country",
        "visual_replacement": "Sri Lanka",
        "answers": ("Lima", "Lima city"),
        "paraphrases": ("Name the capital of this country",),
        "entity": "Peru",
        "relation": "capital",
    }
    return Item(**fields | changes)


MULTI = {
    "question": "Name a country that borders this country and starts with B",
    "paraphrases": (),
    "text_constraint": "B",
    "text_replacement": "Z",
}


@pytest.fixture
def bed(tmp_path):
    """Three parts of 12 single- and 4 multi-constraint items, saved and loaded again; one image on disk."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 4), "red").save(tmp_path / "images" / "red.png")
    items = [
        item(n, part, image=tmp_path / "images" / "red.png", split=("trained", "never")[n % 2])
        for part in ("movies", "known", "okvqa")
        for n in range(12)
    ] + [item(100 + n, part, **MULTI) for part in ("movies", "known", "okvqa") for n in range(4)]
    save_testbed(items, tmp_path, card="# card")
    return load_testbed(tmp_path), items


def test_what_is_saved_is_loaded(bed, tmp_path):
    loaded, items = bed
    assert list(loaded) == items
    assert loaded.items[0].image.is_absolute()
    assert loaded.items[0].image.is_file()
    assert pq.read_table(tmp_path / "items.parquet")["image"][0].as_py() == "images/red.png"
    assert (tmp_path / "README.md").read_text() == "# card"


TEN = ("Lima",) * 6 + ("Peru", "", "Cusco", "lima")


def test_answers_of_annotators_are_an_optional_column(bed, tmp_path):
    assert "annotations" not in pq.read_table(tmp_path / "items.parquet").column_names
    assert {i.annotations for i in bed[0]} == {()}
    save_testbed([item(0, annotations=TEN), item(1)], tmp_path)
    assert [i.annotations for i in load_testbed(tmp_path)] == [TEN, ()]
    table = pq.read_table(tmp_path / "items.parquet")
    missing = table.set_column(table.column_names.index("annotations"), "annotations", pa.array([None, list(TEN)]))
    pq.write_table(missing, tmp_path / "items.parquet")  # as another program may write it
    assert [i.annotations for i in load_testbed(tmp_path)] == [(), TEN]


def test_a_table_without_annotations_is_as_ever(tmp_path):
    embedded = load_testbed("embedded")
    assert not any(i.annotations for i in embedded)
    save_testbed([item()], tmp_path)
    for directory in (embedded.directory, tmp_path):
        assert pq.read_schema(directory / "items.parquet").equals(COLUMNS)


@pytest.mark.parametrize("image", ["../secret.png", "/etc/secret.png", "images/../../secret.png"])
def test_pictures_lie_in_the_directory(tmp_path, image):
    with pytest.raises(TestBedError, match=r"leads out|must lie in"):
        save_testbed([item(image=image)], tmp_path)
    (tmp_path / "images").mkdir()
    save_testbed([item(image="images/a.png")], tmp_path)
    table = pq.read_table(tmp_path / "items.parquet")
    table = table.set_column(table.column_names.index("image"), "image", pa.array([image]))
    pq.write_table(table, tmp_path / "items.parquet")  # from somebody else
    with pytest.raises(TestBedError, match=r"Item 'known-0': .* leads out of the folder"):
        load_testbed(tmp_path)


def test_the_directory_can_be_moved(bed, tmp_path):
    moved = tmp_path.parent / (tmp_path.name + "-moved")
    tmp_path.rename(moved)
    assert load_testbed(moved).items[0].image == moved / "images" / "red.png"


def test_parts_come_in_the_papers_order(bed):
    assert bed[0].parts == ("known", "okvqa", "movies")


def test_selection(bed):
    loaded, _ = bed
    assert len(loaded.select("known")) == 16
    assert {i.constraints for i in loaded.select(constraints="multi")} == {"multi"}
    assert len(loaded.select(constraints="multi")) == 12
    assert {i.split for i in loaded.select(constraints="single", split="never")} == {"never"}
    limited = loaded.select(constraints="single", limit=5)
    assert [i.part for i in limited] == ["known"] * 5 + ["okvqa"] * 5 + ["movies"] * 5
    assert [i.part for i in loaded.select(("movies", "known"), limit=1)] == ["movies", "known"]


def test_smaller_limits_are_prefixes_and_seeds_shuffle(bed):
    loaded, _ = bed
    ids = {n: [i.id for i in loaded.select("known", limit=n)] for n in (5, 10, 0)}
    assert ids[5] == ids[10][:5]
    assert ids[10] == ids[0][:10]
    assert ids[5] != [i.id for i in loaded.select("known", limit=5, seed=1)]
    without_one = replace(loaded, items=tuple(i for i in loaded if i.id != ids[0][-1]))
    assert [i.id for i in without_one.select("known")] == ids[0][:-1]


@pytest.mark.parametrize("arguments", [{"part": "knwon"}, {"constraints": "double"}, {"limit": -1}])
def test_a_selection_that_does_not_exist_is_refused(bed, arguments):
    with pytest.raises(TestBedError, match=r"knwon|double|limit must be 0 \(all\) or more, not -1"):
        bed[0].select(**arguments)


def test_content_is_what_determines_a_result(bed, tmp_path):
    first = bed[0].items[0]
    same = replace(first, part="other", style="emoji", split="never", held_out_style=True)
    assert same.content() == first.content()
    for change in ({"answers": ("Lima",)}, {"paraphrases": ()}, {"id": "other"}, {"entity": "x"}, {"relation": "y"}):
        assert replace(first, **change).content() != first.content()
    (tmp_path / "images" / "copy.png").write_bytes(first.image.read_bytes())
    assert replace(first, image=tmp_path / "images" / "copy.png").content() == first.content()
    Image.new("RGB", (4, 4), "blue").save(tmp_path / "images" / "copy.png")
    assert replace(first, image=tmp_path / "images" / "copy.png").content() != first.content()
    assert replace(first, image=tmp_path / "missing.png").content()["image"] == "unreadable"
    assert replace(first, annotations=TEN).content() == first.content() | {"annotations": list(TEN)}


def test_items_may_be_on_their_way(tmp_path):
    items = [
        item(0, visual_constraint="", visual_replacement=""), item(1, visual_replacement=""),
        item(2, **MULTI | {"text_replacement": None}), item(3, paraphrases=("This country has the capital",)),
    ]
    save_testbed(items, tmp_path)
    assert list(load_testbed(tmp_path)) == items
    assert [i.constraints for i in items] == ["single", "single", "multi", "single"]


def test_letters_count_in_whatever_unicode_form(tmp_path):
    """As for the experiments: a name may be typed in one form and come from a list in another."""
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    paraphrases = f"This {decomposed} is owned by", "Whose is it"
    unmarked = item(question=f"Who owns this {decomposed}?", paraphrases=paraphrases, visual_constraint="",
                    visual_replacement="")
    marked = unmarked.with_constraints(f"this {composed}", None)
    assert marked.paraphrases == paraphrases[:1]
    other = item(question=f"Who owns this {composed}?", visual_constraint=f"this {decomposed}", paraphrases=())
    save_testbed([marked, replace(other, id="other")], tmp_path)
    assert list(load_testbed(tmp_path)) == [marked, replace(other, id="other")]


def test_a_question_that_leads_out_is_not_taken_for_an_image(tmp_path):
    save_testbed([item()], tmp_path)
    table = pq.read_table(tmp_path / "items.parquet")
    asked = pa.array(["Which road leads out of here?"])
    table = table.set_column(table.column_names.index("question"), "question", asked)
    pq.write_table(table, tmp_path / "items.parquet")
    with pytest.raises(TestBedError, match="not a contiguous part of the question 'Which road leads out") as caught:
        load_testbed(tmp_path)
    assert "images" not in str(caught.value)


def test_the_first_line_of_an_error_is_one_that_says_something():
    assert first_line(ValueError("\n  no such file.\nand more")) == "no such file"
    assert first_line(ValueError()) == "ValueError"


def test_a_write_that_fails_leaves_the_table_as_it_was(bed, tmp_path, monkeypatch):
    before = (tmp_path / "items.parquet").read_bytes()

    def full_disk(table, path, **_):
        path.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(pq, "write_table", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_testbed([item()], tmp_path)
    assert (tmp_path / "items.parquet").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"items.parquet", "README.md", "images"}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"visual_constraint": "this city"}, "not a contiguous part"),
        ({"paraphrases": ("Which city governs this land?",)}, "not a contiguous part"),
        ({"answers": ()}, "at least one answer"),
        ({"answers": ("Lima", "")}, "no answer may be empty"),
        ({"text_replacement": "capital"}, "text_replacement replaces text_constraint, which is missing"),
        ({"visual_constraint": ""}, "visual_replacement replaces visual_constraint, which is missing"),
        (
            {"visual_constraint": "", "visual_replacement": "", "text_constraint": "capital"},
            "needs a visual_constraint",
        ),
        ({"text_constraint": ""}, "must be None where there is none"),
        ({"text_constraint": "capital", "text_replacement": ""}, "must be None where there is none"),
        ({"id": ""}, "id and part"),
        ({"answers": ("Lima", " ")}, "no answer may be empty"),
        ({"answers": ("Lima", "\u200b\n")}, "no answer may be empty"),
        ({"answers": "Lima"}, r"answers must be a list or tuple of texts, such as \('Lima',\), not 'Lima'"),
        ({"paraphrases": "Name the capital of this country"}, "paraphrases must be a list or tuple of texts"),
        ({"annotations": "Lima"}, "annotations must be a list or tuple of texts"),
        ({"answers": 7}, "answers must be a list or tuple of texts"),
        ({"answers": None}, "answers must be a list or tuple of texts"),
        ({"answers": ("Lima", 2006)}, "answers must hold texts, not 2006"),
        ({"answers": (None,)}, "answers must hold texts, not None"),
        ({"question": None}, "question must be a text, not None"),
        ({"entity": 4}, "entity must be a text, not 4"),
        ({"image": b"bytes" * 999}, "image must be the path of a picture or None, not b'bytes"),
        ({"question": " ", "visual_constraint": "", "visual_replacement": ""}, "question must not be empty"),
        ({"visual_replacement": " "}, "visual_replacement must be '' where there is none, not blank"),
        ({"text_constraint": "capital", "text_replacement": " "}, "must be None where there is none"),
        ({"question": "this STRASSE", "visual_constraint": "this Straße", "paraphrases": ()}, "not a contiguous part"),
        ({"question": "is it İSTANBUL", "visual_constraint": "ıstanbul i", "paraphrases": ()}, "not a contiguous part"),
        ({"text_constraint": "country"}, "text_constraint 'country' overlaps visual_constraint"),
        ({"annotations": ("Lima",) * 9}, "annotations must be 10 answers"),
        ({"annotations": ("Lima",) * 11}, "not 11"),
        ({"annotations": ("Lima",) * 9 + (None,)}, "none of them missing"),
    ],
)
def test_malformed_items_are_refused(changes, problem):
    with pytest.raises(TestBedError, match=problem):
        item(**changes)


@pytest.mark.parametrize(("question", "constraint"), [
    ("The mayor of istanbul is", "İSTANBUL"), ("The mayor of İSTANBUL is", "istanbul"),
    ("THIS COUNTRY is", "this country"),
    ("this STRASSE", "this strasse"), ("this Straße", "this Straße"), ("this Straße", "this STRASSE"),
    ("L\u2019e\u0301tat de ce pays", "l\u2019\u00e9tat"), ("ΟΔΟΣ", "οδος"),
    ("this ﬁsh", "this fish"), ("यह देश है", "यह देश"),
])
def test_an_item_can_be_built_if_it_can_be_asked(question, constraint):
    """One rule for both: what `build_prompt` does not find, the item refuses."""
    try:
        build_prompt(tiny.build("gqa", None), question, visual_constraint=constraint)
    except PromptError:
        with pytest.raises(TestBedError, match="is not a contiguous part of the question"):
            item(question=question, visual_constraint=constraint, paraphrases=())
        return
    assert item(question=question, visual_constraint=constraint, paraphrases=()).visual_constraint == constraint


def test_lists_and_paths_as_texts_are_taken(tmp_path):
    made = item(answers=["Lima"], paraphrases=[], image=str(tmp_path / "a.png"))
    assert (made.answers, made.paraphrases, made.image) == (("Lima",), (), tmp_path / "a.png")
    assert made == item(answers=("Lima",), paraphrases=(), image=tmp_path / "a.png")


def test_a_long_id_is_quoted_by_its_beginning():
    with pytest.raises(TestBedError) as error:
        item(id="i" * 9_999, question="q" * 9_999)
    assert len(str(error.value)) < 400


def test_malformed_tables_are_refused(tmp_path):
    with pytest.raises(TestBedError, match="Unknown test bed"):
        load_testbed(tmp_path / "nowhere")
    (tmp_path / "items.parquet").write_bytes(b"PAR1 truncated")
    with pytest.raises(TestBedError, match="not a readable parquet"):
        load_testbed(tmp_path)
    save_testbed([item()], tmp_path)
    table = pq.read_table(tmp_path / "items.parquet")
    pq.write_table(table.drop_columns(["answers", "entity"]), tmp_path / "items.parquet")
    with pytest.raises(TestBedError, match="answers, entity"):
        load_testbed(tmp_path)
    wrong = table.set_column(COLUMNS.get_field_index("answers"), "answers", pa.array([7]))
    pq.write_table(wrong, tmp_path / "items.parquet")
    with pytest.raises(TestBedError, match="wrong type"):
        load_testbed(tmp_path)
    with pytest.raises(TestBedError, match="twice"):
        save_testbed([item(), item()], tmp_path)
    with pytest.raises(TestBedError, match="must lie in"):
        save_testbed([item(image="/elsewhere/a.png")], tmp_path)


def test_images_are_rgb_on_white(tmp_path):
    Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    image = load_image(tmp_path / "clear.png")
    assert image.mode == "RGB"
    assert image.getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([0, 0, 0, 255, 255, 255])
    palette.save(tmp_path / "palette.gif", transparency=0)
    assert load_image(tmp_path / "palette.gif").getpixel((0, 0)) == (255, 255, 255)
    Image.new("L", (2, 2), 9).save(tmp_path / "gray.png")
    assert load_image(tmp_path / "gray.png").getpixel((1, 1)) == (9, 9, 9)


@pytest.mark.parametrize("content", [None, b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_unreadable_images_are_named(tmp_path, content):
    path = tmp_path / "broken.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TestBedError, match=r"broken\.png"):
        load_image(path)


@pytest.mark.parametrize("linked", ["picture", "folder", "test bed"])
def test_a_test_bed_of_links_is_saved_as_it_was_loaded(tmp_path, linked):
    """A picture, all of images/ or the test bed itself may be a link to where the files lie."""
    real, bed = tmp_path / "elsewhere", tmp_path / "bed"
    (real / "images").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(real / "images" / "0.png")
    if linked == "test bed":
        bed.symlink_to(real)
    else:
        (bed / "images").mkdir(parents=True)
        if linked == "folder":
            (bed / "images").rmdir()
            (bed / "images").symlink_to(real / "images")
        else:
            (bed / "images" / "0.png").symlink_to(real / "images" / "0.png")
    save_testbed([item(image=Path("images/0.png"), visual_replacement="")], bed)
    for _ in range(2):
        loaded = load_testbed(bed)
        assert load_image(loaded.items[0].image).size == (4, 4)
        save_testbed(loaded, bed)
        assert pq.read_table(bed / "items.parquet")["image"].to_pylist() == ["images/0.png"]
    if linked != "folder":  # there it would be another file
        save_testbed([replace(loaded.items[0], image=bed / "images/../images/0.png")], bed)
    assert pq.read_table(bed / "items.parquet")["image"].to_pylist() == ["images/0.png"]
    other = item(1, entity="Chile", answers=("Santiago",))
    found = choose_corruptions(TestBed("bed", loaded.directory, (*loaded, other)))
    write_corruptions(loaded, replace(found, items=found.items[:1]))
    assert load_testbed(bed).items[0].visual_replacement
    for way_out in (tmp_path / "other.png", bed / "../other.png"):
        with pytest.raises(TestBedError, match=r"must lie in .*: copy it to images/ there"):
            save_testbed([item(image=way_out)], bed)


def test_a_path_is_shown_whole_unless_it_is_none(tmp_path):
    """Its end says most."""
    path = tmp_path / ("folder" * 20) / "a.png"
    with pytest.raises(TestBedError, match=re.escape(str(path))):
        load_image(path)
    assert quoted("x" * 80) == repr("x" * 80) and quoted("x" * 81) == "'" + "x" * 80 + "\u2026'"
    assert quoted(b"x" * 81) == "b'" + "x" * 80 + "\u2026'" and quoted(np.zeros((3, 4))) == "ndarray of shape (3, 4)"
    assert len(quoted([1] * 999)) == 81 and quoted(None) == "None" and quoted(Path("a/b")) == "'a/b'"


def test_names_that_no_file_can_have():
    for name in ("b" * 9_999, "a\0b"):
        with pytest.raises(TestBedError, match="Unknown test bed") as error:
            load_testbed(name)
        assert len(str(error.value)) < 300


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "tiff", "webp"])
def test_a_picture_is_seen_upright(tmp_path, kind, orientation):
    """As by transformers' own `load_image`, from the file and from the open picture, and only once."""
    path, exif = tmp_path / f"turned.{kind}", Image.Exif()
    exif[0x0112] = orientation
    Image.effect_noise((32, 16), 90).convert("RGB").resize((64, 32)).save(path, exif=exif)
    expected = transformers_load_image(str(path))
    with Image.open(path) as opened:
        seen = [load_image(path), load_image(opened), on_white(opened), load_image(load_image(path))]
    for image in seen:
        assert image.size == expected.size == ((32, 64) if orientation > 4 else (64, 32))
        assert np.array_equal(np.asarray(image), np.asarray(expected))


RAMP = np.linspace(0, 1, 256).reshape(16, 16)  # of black to white


@pytest.mark.parametrize(("mode", "white", "dtype", "endings"), [
    ("I;16", 65535, np.uint16, ("png", "tiff")), ("I;16", 65535, ">u2", ("tiff",)), ("I", 65535, np.int32, ("tiff",)),
    ("I", 255, np.int32, ("tiff",)), ("I", 2**31 - 1, np.int32, ("tiff",)), ("F", 1, np.float32, ("tiff",)),
    ("F", 255, np.float32, ("tiff",)), ("F", 65535, np.float32, ("tiff",)),
])
def test_gray_of_more_than_8_bits_is_scaled(tmp_path, mode, white, dtype, endings):
    """Pillow's own conversion cuts values off at 255: nearly everything would be white."""
    image = Image.fromarray((RAMP * white).astype(dtype))
    seen = [load_image(image)]
    for ending in endings:
        image.save(tmp_path / f"deep.{ending}")
        with Image.open(tmp_path / f"deep.{ending}") as opened:
            assert opened.mode.startswith(mode)
        seen.append(load_image(tmp_path / f"deep.{ending}"))
    for picture in seen:
        assert picture.mode == "RGB"
        assert abs(np.asarray(picture, float) - 255 * RAMP[..., None]).max() <= 1


def test_a_clear_value_of_16_bits_is_white(tmp_path):
    values = np.full((4, 4), 30_000, np.uint16)
    values[0] = 100
    Image.fromarray(values).save(tmp_path / "clear.png", transparency=100)
    image = load_image(tmp_path / "clear.png")
    assert image.getpixel((0, 0)) == (255,) * 3 and image.getpixel((0, 1)) == (117,) * 3


@pytest.mark.parametrize(("mode", "colour", "seen"), [
    ("1", 1, (255, 255, 255)), ("L", 9, (9, 9, 9)), ("LA", (9, 0), (255, 255, 255)), ("La", (0, 0), (255, 255, 255)),
    ("RGBa", (0, 0, 0, 0), (255, 255, 255)), ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
    ("YCbCr", (76, 85, 255), (254, 0, 0)),
    ("HSV", (0, 255, 255), (255, 0, 0)), ("PA", (0, 0), (255, 255, 255)),
])
def test_every_mode_becomes_rgb(mode, colour, seen):
    image = load_image(Image.new(mode, (2, 2), colour))
    assert image.mode == "RGB" and image.getpixel((1, 1)) == seen


def test_a_palette_with_alpha_is_on_white():
    image = Image.new("P", (2, 2), 0)
    image.putpalette([255, 0, 0, 0], "RGBA")
    assert load_image(image).getpixel((0, 0)) == (255, 255, 255)


def test_a_picture_that_was_cut_short_is_a_test_bed_error_however_it_comes(tmp_path):
    path = tmp_path / "cut.png"
    Image.effect_noise((64, 64), 90).save(path)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(TestBedError, match=r"cut\.png' cannot be read"):
        load_image(path)
    with Image.open(path) as lazy, pytest.raises(TestBedError, match="image, a PngImageFile that is open, cannot be"):
        load_image(lazy)


def test_one_limit_of_size_for_all_ways(tmp_path, monkeypatch, recwarn):
    path = tmp_path / "large.png"
    Image.new("L", (40, 30)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 30)
    assert image_problem(path) == "" and load_image(path).size == (40, 30)
    for limit in (40 * 30 - 1, 40):  # of the second Pillow itself makes an error
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 30)
        opened = Image.open(path)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        told = f"it has more than {limit:,} pixels"
        assert image_problem(path) == told
        for image in (path, str(path), opened, Image.new("L", (40, 30))):
            with pytest.raises(TestBedError, match=re.escape(f"cannot be read ({told}): replace it or leave its item")):
                load_image(image)
    assert not [one for one in recwarn if one.category is Image.DecompressionBombWarning]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert load_image(path).size == (40, 30) and image_problem(path) == ""


@pytest.mark.parametrize("image", [
    "data:image/png;base64," + "A" * 200_000, b"\x89PNG" * 100_000,
    np.zeros((400, 400, 3)), "https://a.org/" + "a" * 999,
    [0] * 100_000, "x" * 100_000, Path("y" * 5_000), 7,
], ids=lambda image: type(image).__name__)
def test_messages_quote_the_beginning_of_what_is_no_picture(image):
    with pytest.raises(TestBedError) as error:
        load_image(image)
    message = str(error.value)
    assert len(message) < 500 and "\n" not in message
    assert "path of a picture or a PIL image, not" in message or "cannot be read" in message


@pytest.mark.parametrize(("size", "view", "box"), [
    ((160, 100), "cropped", (30, 0, 100, 100)), ((160, 100), "padded", (0, -30, 160, 160)),
    ((160, 100), "squeezed", (0, 0, 160, 100)), ((100, 161), "padded", (-30.5, 0, 161, 161)),
])
def test_what_a_model_sees_of_a_picture(size, view, box):
    assert seen_box(size, view) == box


@pytest.mark.parametrize("size", [(40, 30), (30, 41), (20, 20)])
def test_a_padded_picture_lies_where_the_box_says(size):
    image = on_square(Image.new("RGB", size, "white"), (1, 2, 3))
    left, top, side, _ = seen_box(size, "padded")
    assert image.size == (side, side) and np.asarray(image).min() == (1 if size[0] != size[1] else 255)
    white = np.argwhere((np.asarray(image) == 255).all(-1))
    assert white.min(0).tolist() == [int(-top), int(-left)] and len(white) == size[0] * size[1]
