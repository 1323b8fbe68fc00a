"""Broken and hostile downloads: one sentence each, nothing half-written, nothing run."""

import builtins
import json
import os
import pickle
import re
import struct
import zlib

import pandas as pd
import pytest
from PIL import Image

from benchmarks.synthetic_sources import write_films, write_okvqa, write_released
from interventions.__main__ import main
from interventions.testbed import TestBedError, load_testbed
from interventions.testbed.images import ImageFolder, image_problem, safe_parts

ONE = {"known": 3, "okvqa": 3, "movies": 3}


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "sources"
    write_released(root, ONE, size=(8, 8))
    return root


class Harmful:
    """Unpickled, it would leave a file behind."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


def spoil_csv(name, change):
    def spoil(root):
        path = root / "data_constraints" / name
        path.write_bytes(change(path.read_bytes()))

    return spoil


def spoil_json(name, change):
    def spoil(root):
        data = json.loads((root / name).read_text())
        (root / name).write_text(json.dumps(change(data)))

    return spoil


def cut(name):
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[:-30])


def put(name, content: bytes):
    return lambda root: (root / name).write_bytes(content)


def harmful(call, *arguments):
    return lambda root: (root / "movies.pkl").write_bytes(pickle.dumps([Harmful(call, *arguments)]))


KNOWN, OKVQA, MOVIES = "multimodal_known.csv", "okvqa.csv", "multimodal_movies.csv"
WHOLE_FILES = {
    "truncated JSON": (cut("questions.json"), "questions.json is not readable JSON"),
    "truncated annotations": (cut("annotations.json"), "annotations.json is not readable JSON"),
    "JSON that is a web page": (put("questions.json", b"<html>404</html>"), "questions.json is not readable JSON"),
    "JSON nested without end": (put("questions.json", b"[" * 100_000), "questions.json is not readable JSON"),
    "empty JSON": (put("annotations.json", b""), "annotations.json is not readable JSON"),
    "the two JSON files swapped": (
        lambda root: (root / "questions.json").write_text((root / "annotations.json").read_text()),
        "questions.json has no 'questions'"),
    "a duplicate question_id": (
        spoil_json("questions.json", lambda d: {"questions": d["questions"] + d["questions"][:1]}),
        "questions.json has the question_id 10 twice"),
    "a question_id of another type": (
        spoil_json("questions.json", lambda d: {"questions": [q | {"question_id": "1"} for q in d["questions"]]}),
        "record 0: question_id must be a whole number, not '1'"),
    "a record that is no record": (
        spoil_json("questions.json", lambda d: {"questions": [1]}), "record 0: not a record"),
    "nine answers": (
        spoil_json("annotations.json", lambda d: {"annotations": [a | {"answers": a["answers"][1:]}
                                                                  for a in d["annotations"]]}),
        "question 10 has no ten answers"),
    "answers without text": (
        spoil_json("annotations.json", lambda d: {"annotations": [a | {"answers": [{"answer": None}] * 10}
                                                                  for a in d["annotations"]]}),
        "question 10 has no ten answers"),
    "wrong columns": (
        spoil_csv(KNOWN, lambda b: b.replace(b"main_entity", b"entity")), "lacks the column(s) main_entity"),
    "no header": (spoil_csv(OKVQA, lambda b: b.partition(b"\n")[2]), "lacks the column(s)"),
    "no rows": (spoil_csv(MOVIES, lambda b: b.partition(b"\n")[0]), "multimodal_movies.csv has no rows"),
    "an empty CSV": (put(f"data_constraints/{OKVQA}", b""), "lacks the column(s)"),
    "a field too many": (spoil_csv(KNOWN, lambda b: b + b"9,a,b,c,d,e\r\n"), "not as many fields as the header"),
    "a field too few": (spoil_csv(KNOWN, lambda b: b + b"9,a,b\r\n"), "not as many fields as the header"),
    "a quote that never ends": (spoil_csv(OKVQA, lambda b: b + b'9,"a'), "okvqa.csv is not a readable CSV"),
    "Latin-1 instead of UTF-8": (spoil_csv(MOVIES, lambda b: b.decode().encode("latin-1")), "is not UTF-8"),
    "a NUL byte": (spoil_csv(OKVQA, lambda b: b + b"9,a\0b\r\n"), "okvqa.csv"),
    "a pickle that runs a command": (harmful(os.system, "touch ran"), "wants to run posix.system"),
    "a pickle that evaluates": (harmful(eval, "open('ran', 'w')"), "wants to run builtins.eval"),
    "a pickle that opens a file": (harmful(builtins.open, "ran", "w"), "wants to run io.open"),
    "a pickle of a class": (
        lambda root: pd.DataFrame({"a": [1]}).to_pickle(root / "movies.pkl"), "wants to run pandas."),
    "a pickle with outside objects": (put("movies.pkl", b"\x80\x02U\x01aQ."), "refers to objects outside of it"),
    "a pickle cut short": (cut("movies.pkl"), "movies.pkl is not a readable pickle"),
    "a pickle of something else": (put("movies.pkl", pickle.dumps({"a": 1})), "movies.pkl is not a list of records"),
    "films without a director": (
        put("movies.pkl", pickle.dumps([{"movie_name": "A"}])), "director_name must be a text"),
    "no pickle": (lambda root: (root / "movies.pkl").unlink(), "There is no file"),
}


def run(root, out, *more):
    return main([
        "testbed", "import-released", str(root / "data_constraints"), str(out), "--images", str(root / "images"),
        "--films", str(root / "movies.pkl"), "--okvqa-questions", str(root / "questions.json"),
        "--okvqa-annotations", str(root / "annotations.json"), *more,
    ])


@pytest.mark.parametrize("fault", WHOLE_FILES)
def test_a_broken_file_ends_the_import_in_one_sentence(fault, root, capsys, monkeypatch):
    spoil, told = WHOLE_FILES[fault]
    spoil(root)
    beds = root.parent / "beds"
    beds.mkdir()
    monkeypatch.chdir(beds)  # where harmful code would leave its mark
    assert run(root, beds / "bed") == 1
    printed = capsys.readouterr()
    assert told in printed.err
    assert printed.err.count("\n") == 1
    assert "Traceback" not in printed.err
    assert list(beds.iterdir()) == []


def test_the_same_sources_unspoilt_are_imported(root):
    assert run(root, root.parent / "bed") == 0
    assert len(load_testbed(root.parent / "bed")) == 9


def bomb(path, width=30_000, height=30_000):
    """A PNG of that many pixels in a few kilobytes: decoding it would take 2.7 GB."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )


PICTURES = {
    "30,000 x 30,000 pixels": (bomb, "more than 89,478,485 pixels"),
    "a few pixels too many": (lambda path: bomb(path, 9_460, 9_460), "more than 89,478,485 pixels"),
    "a web page": (lambda path: path.write_text("<!DOCTYPE html><title>404</title>"), "a web page, not a picture"),
    "XML": (lambda path: path.write_text('<?xml version="1.0"?><Error/>'), "a web page, not a picture"),
    "empty": (lambda path: path.write_bytes(b""), "it is empty"),
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[:-200]), "cannot be decoded"),
    "text": (lambda path: path.write_text("hello"), "cannot be decoded (unknown format)"),
    "one pixel": (lambda path: Image.new("RGB", (1, 1)).save(path, "PNG"), "1 x 1 pixels are no picture"),
    "not there": (lambda path: path.unlink(), "it is not there"),
    "a link that leads nowhere": (lambda path: (path.unlink(), path.symlink_to("gone.jpg")), "it is not there"),
    "PostScript": (lambda path: path.write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"), "unknown format"),
    "a damaged texture": (lambda path: path.write_bytes(b"DDS " + b"\x7c\0\0\0" + b"\xff" * 200), "unknown format"),
}


@pytest.mark.parametrize("fault", PICTURES)
def test_a_broken_picture_costs_its_own_row(fault, root, monkeypatch):
    spoil, told = PICTURES[fault]
    program = root / "bin" / "gs"  # by which Pillow would open PostScript
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {root / 'ran'}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    picture = root / "images" / "val2014" / "COCO_val2014_000000000002.jpg"
    Image.effect_noise((40, 40), 50).save(picture)
    spoil(picture)
    assert told in image_problem(picture)
    assert run(root, root.parent / "bed") == 0
    rows = pd.read_csv(root.parent / "bed" / "rows.csv", keep_default_na=False).set_index("id")
    assert rows.loc["okvqa-00002", "status"] == "left out"
    assert "not there" in told or told in rows.loc["okvqa-00002", "reason"]
    assert "\n" not in rows.loc["okvqa-00002", "reason"]
    assert (rows["status"] == "left out").sum() == 1
    assert not (root / "ran").exists()
    assert len(load_testbed(root.parent / "bed")) == 8


@pytest.mark.parametrize("name", [
    "../secret.jpg", "/etc/passwd", "a/../../secret.jpg", "..\\secret.jpg", "C:\\secret.jpg", "c:secret.jpg", "a\0.jpg",
    "", ".", "./", "\\\\server\\share", "~/../../x/../..",
])
def test_image_names_that_lead_out_of_the_folder(name, tmp_path):
    (tmp_path / "secret.jpg").write_bytes(b"")
    (tmp_path / "images").mkdir()
    with pytest.raises(TestBedError, match="leads out of the folder of images"):
        ImageFolder(tmp_path / "images").find(name)


def test_pictures_in_the_order_of_their_numbers(tmp_path):
    for name in ("Image_10.png", "Image_2.png", "1²3.png"):
        Image.new("L", (4, 4)).save(tmp_path / name)
    found, _ = ImageFolder(tmp_path.parent).find(tmp_path.name)
    assert [path.name for path in found] == ["1²3.png", "Image_2.png", "Image_10.png"]


def test_names_with_dots_are_names():
    assert safe_parts("./A photo of Mr. T/Image_1.jpg") == ("A photo of Mr. T", "Image_1.jpg")
    assert safe_parts("...and you/a..b.jpg") == ("...and you", "a..b.jpg")


@pytest.mark.parametrize(("written", "looked_for"), [
    ("Beyoncé", "Beyonce\u0301"), ("Beyonce\u0301", "Beyoncé"), ("İstanbul", "İstanbul"), ("東京タワー", "東京タワー"),
    ("Ｆｕｌｌ", "Ｆｕｌｌ"), ("STRASSE", "straße"), ("a  b", "a b"),
    ("가", "\u1100\u1161"), ("👩‍🚀", "👩‍🚀"), ("نص", "نص"),
])
def test_names_in_any_script_and_form(written, looked_for, tmp_path):
    (tmp_path / written).mkdir()
    Image.new("L", (4, 4)).save(tmp_path / written / "Image_1.png")
    found, other = ImageFolder(tmp_path).find(looked_for)
    assert [path.name for path in found] == ["Image_1.png"]
    assert other == (written != looked_for)


def test_a_row_whose_text_is_odd_is_accounted_for(root):
    path = root / "data_constraints" / OKVQA
    odd = ["\u200b", "﷽" * 50, "What is this\u202e?", "'; DROP TABLE", "a" * 5000, '"quoted, with\nnewline"']
    lines = "".join(f'9,"{text.replace(chr(34), chr(34) * 2)}",this,./val2014/x.jpg\r\n' for text in odd)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + lines.encode())  # with a byte order mark, too
    assert run(root, root.parent / "bed") == 0
    rows = pd.read_csv(root.parent / "bed" / "rows.csv", keep_default_na=False)
    assert (rows["part"] == "okvqa").sum() == 3 + len(odd)
    assert (rows["status"] == "left out").sum() == len(odd)


@pytest.mark.parametrize(("arguments", "told"), [
    (["build", "okvqa", "{s}/questions.json", "{s}/nothing.json", "{o}", "--images", "{s}/images"], "There is no file"),
    (["build", "movies", "{s}/movies.pkl", "{o}", "--images", "{s}/nowhere"], "images: .* is no folder"),
    (["build", "movies", "{s}/movies.pkl", "{o}", "--images", "{s}/images", "--years", "{s}/years.csv"],
     "is not a year"),
    (["build", "known", "{o}", "--images", "{s}/images", "--choice", "best"], "choice cannot be 'best'"),
    (["build", "encyclopedic", "{s}/data_constraints/okvqa.csv", "{o}", "--images", "{s}/images"], "lacks the column"),
    (["import-released", "{s}", "{o}", "--images", "{s}/images"], "holds none of"),
    (["build", "known", "{o}", "--images", "{s}/data_constraints"], "None of 1209 rows can be used"),
    (["import-released", "{s}/data_constraints", "{o}", "--images", "{s}/images", "--okvqa-questions", "x"],
     "belong together"),
    (["build", "movies", "{s}/movies.pkl", "{o}", "--images", "{s}/images", "--multi", "-1"],
     "multi must be 0 or more"),
    (["build", "known", "{o}", "--images", "{s}/images", "--relations", "{s}/relations.json"],
     "templates must be pairs"),
])
def test_bad_arguments_end_in_one_sentence(arguments, told, tmp_path, capsys):
    root = tmp_path / "sources"
    (root / "images" / "A").mkdir(parents=True)
    (root / "data_constraints").mkdir()
    (root / "data_constraints" / OKVQA).write_text("question,main_entity,image_url\na,b,c\n")
    (root / "years.csv").write_text("movie_name,year\nFilm 1,recently\n")
    write_films(root / "movies.pkl", ["A"], films=3)
    write_okvqa(root, ["What?"])
    relation = {"relation_id": "P1", "question": "Q", "visual_constraint": "Q", "default_noun": "n", "other_nouns": []}
    (root / "relations.json").write_text(json.dumps([relation | {"templates": ["x"]}]))
    beds = tmp_path / "beds"
    beds.mkdir()
    assert main(["testbed", *(text.format(s=root, o=beds / "bed") for text in arguments)]) == 1
    printed = capsys.readouterr().err
    assert re.search(told, printed), printed
    assert printed.count("\n") == 1
    assert list(beds.iterdir()) == []
