"""The released annotations as a test bed: every row of made-up sources ends as it must, and nothing else is written."""

import json
import pickle
import unicodedata

import pandas as pd
import pytest
from PIL import Image

from benchmarks.synthetic_sources import DEFECTS, write_csv, write_released
from interventions.__main__ import main
from interventions.testbed import TestBedError, load_image, load_testbed
from interventions.testbed.images import FORMATS
from interventions.testbed.provenance import described, history
from interventions.testbed.sources.new_testbed import ROWS, summary
from interventions.testbed.sources.released import import_released

SIZES = {"known": 60, "okvqa": 60, "movies": 60}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("sources")
    return root, write_released(root, SIZES, size=(24, 16))


def paths(root):
    return {"images": [root / "images"], "films": root / "movies.pkl", "okvqa_questions": root / "questions.json",
            "okvqa_annotations": root / "annotations.json"}


@pytest.fixture(scope="module")
def imported(sources, tmp_path_factory):
    root, _ = sources
    return import_released(root / "data_constraints", tmp_path_factory.mktemp("beds") / "bed", **paths(root))


def test_every_row_ends_as_it_must(sources, imported):
    _, expected = sources
    bed, rows, _ = imported
    assert len(rows) == len(expected) == sum(SIZES.values())
    both = rows.merge(expected, on=["part", "number"], suffixes=("", "_expected"), validate="one_to_one")
    assert set(both["defect"]) == {"", *DEFECTS}  # each was there
    for row in both.itertuples():
        assert row.status == row.status_expected, row
        assert row.words == "" or any(word in row.repairs + row.reason for word in row.words.split("|")), row
    counts = rows["status"].value_counts()
    assert counts["kept"] + counts["repaired"] == len(bed)
    assert set(rows.loc[rows["status"] != "left out", "id"]) == {item.id for item in bed}


def test_what_the_sources_add(imported):
    by_id = {item.id: item for item in imported[0]}
    known, movie, okvqa = by_id["known-00001"], by_id["movies-00001"], by_id["okvqa-00001"]
    assert (known.entity, known.answers, known.relation) == ("Vinson Massif", ("Antarctica",), "P30")
    assert known.visual_constraint == "This place"
    assert movie.entity == "Zoë Director 0"
    assert len(movie.answers) > 100
    assert len(set(movie.answers)) == len(movie.answers)
    assert okvqa.annotations == ("coffee",) + ("tea",) * 9
    assert okvqa.answers == ("tea", "coffee")  # the commonest first
    assert {item.visual_replacement for item in imported[0]} == {""}


def test_a_joint_credit_counts_for_each_director(imported):
    films = {item.entity: item.answers for item in imported[0] if item.part == "movies"}
    assert "Film 9" in films["Zoë Director 9"]  # "Zoë Director 9, Zoë Director 10"
    assert "Film 9" in films["Zoë Director 10"]


def test_a_credit_of_two_is_what_they_made_together(tmp_path):
    rows = [("A", "Alone"), ("A, B", "Together"), ("C and A", "Another"), ("B & A", "Again"), ("D, Sr.", "Senior")]
    made = [{"movie_name": name, "director_name": credit, "popularity": 0.0} for credit, name in rows]
    (tmp_path / "movies.pkl").write_bytes(pickle.dumps(made))
    asked = ("A and B", "a", "B, C", "d, Sr.")
    for name in asked:
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("L", (4, 4)).save(tmp_path / "images" / name / "1.png")
    same = {"question": "Name a movie directed by this director", "main_entity": "this director"}
    released = [same | {"director": name, "image_url": name} for name in asked]
    write_csv(tmp_path / "multimodal_movies.csv", released)
    arguments = {"images": [tmp_path / "images"], "films": tmp_path / "movies.pkl"}
    bed, rows, _ = import_released(tmp_path, tmp_path / "bed", **arguments)
    assert [item.answers for item in bed] == [
        ("Again", "Together"), ("Again", "Alone", "Another", "Together"), ("Senior",)
    ]
    assert rows.loc[2, "reason"] == "no film of the director: 'B, C'"


def test_pictures_are_taken_along_by_content(imported):
    bed, rows, _ = imported
    for item in bed:
        assert item.image.is_relative_to(bed.directory / "images" / item.part)
        assert load_image(item.image).size == (24, 16)
        sha = rows.set_index("id").loc[item.id, "image_sha256"]
        assert described(item.image)["sha256"] == sha
        assert sha[:12] in item.image.name
    assert rows.set_index("id").loc["known-00001", "image"] == "A photo of Vinson Massif/Image_1.jpg"
    assert "of 3 images, the first" in rows.set_index("id").loc["known-00001", "notes"]


def test_the_choice_among_several_pictures(sources, tmp_path):
    root, _ = sources
    folder = tmp_path / "images" / "A photo of Vinson Massif"
    folder.mkdir(parents=True)
    for number, width in ((10, 50), (2, 40), (3, 90)):
        Image.new("RGB", (width, 30)).save(folder / f"Image_{number}.jpg")
    for choice, name in (("first", "Image_2.jpg"), ("largest", "Image_3.jpg")):
        arguments = paths(root) | {"images": [tmp_path / "images", root / "images"], "choice": choice}
        _, rows, _ = import_released(root / "data_constraints", tmp_path / choice, **arguments)
        assert rows.set_index("id").loc["known-00001", "image"].endswith(name)


def test_inputs_and_rows_are_recorded(imported, sources):
    root, _ = sources
    bed, rows, folders = imported
    (step,) = history(bed.directory)
    assert step["command"] == "import-released"
    assert sum(step["counts"].values()) == len(rows)
    recorded = {file["name"]: file["sha256"] for file in step["inputs"]}
    for path in (root / "movies.pkl", root / "questions.json", root / "data_constraints" / "okvqa.csv"):
        assert recorded[path.name] == described(path)["sha256"]
    assert len(recorded) == 7
    card = (bed.directory / "README.md").read_text()
    assert recorded["movies.pkl"] in card
    n_movies = sum(item.part == "movies" for item in bed)
    assert f"| `movies` | single | {n_movies} | " in card
    assert pd.read_csv(bed.directory / ROWS, keep_default_na=False).to_dict() == rows.to_dict()
    # Those that lack a picture, or are named only by rows that are left out, are named all the same.
    assert folders[0].unnamed() == ["A photo of nobody that a row names"]


def test_parts_without_a_source_of_answers_are_left_out_and_say_so(sources, tmp_path, capsys):
    root, _ = sources
    out = tmp_path / "bed"
    command = ["testbed", "import-released", str(root / "data_constraints"), str(out)]
    assert main([*command, "--images", str(root / "images")]) == 0
    bed = load_testbed(out)
    assert bed.parts == ("known",)
    printed = capsys.readouterr().out
    assert "okvqa.csv: 0 kept + 0 repaired + 60 left out = 60 rows" in printed
    assert "left out, no answers without --films: " in printed
    assert f"{out}: {len(bed)} questions" in printed


def test_another_unicode_form_in_either_place(tmp_path):
    for number, (in_csv, in_folder) in enumerate((("NFC", "NFD"), ("NFD", "NFC"))):
        root = tmp_path / str(number)
        folder = root / "images" / unicodedata.normalize(in_folder, "A photo of Hervé")
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / "Image_1.png")
        row = {"question": "This person was born in?", "subject": "Hervé", "main_entity": "This person",
               "image_url": "./A photo of Hervé"}
        write_csv(root / "multimodal_known.csv", [{k: unicodedata.normalize(in_csv, v) for k, v in row.items()}])
        fact = {"subject": unicodedata.normalize(in_folder, "Hervé"), "attribute": "Paris", "relation_id": "P19",
                "template": "{} was born in", "prompt": "Hervé was born in"}
        (root / "known.json").write_text(json.dumps([fact]))
        bed, rows, _ = import_released(root, root / "bed", images=[root / "images"], known=root / "known.json")
        assert [item.answers for item in bed] == [("Paris",)]
        assert bed.items[0].entity == "Hervé"
        assert bool(rows.loc[0, "repairs"]) == (in_folder == "NFD")


def test_of_two_facts_about_one_subject_the_one_that_fits(tmp_path):
    (tmp_path / "images" / "A photo of Vivaldi").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "A photo of Vivaldi" / "a.png")
    facts = [
        {"subject": "Vivaldi", "attribute": answer, "template": template, "prompt": "", "relation_id": "P1"}
        for answer, template in (("opera", "{} plays"), ("Vienna", "{} died in"), ("violin", "{} plays"))
    ]
    (tmp_path / "known.json").write_text(json.dumps(facts))
    asked = ["This person died in?", "What this person plays is?", "What this person plays is"]
    same = {"subject": "Vivaldi", "main_entity": "this person", "image_url": "A photo of Vivaldi"}
    write_csv(tmp_path / "multimodal_known.csv", [{"question": question, **same} for question in asked])
    arguments = {"images": [tmp_path / "images"], "known": tmp_path / "known.json"}
    bed, _, _ = import_released(tmp_path, tmp_path / "bed", **arguments)
    assert [item.answers[0] for item in bed] == ["Vienna", "opera", "violin"]


def test_a_row_is_no_double_of_one_that_was_left_out(tmp_path):
    (tmp_path / "images" / "Vinson Massif").mkdir(parents=True)
    Image.new("L", (4, 4)).save(tmp_path / "images" / "Vinson Massif" / "1.png")
    same = {"question": "Where is this place?", "subject": "Vinson Massif", "image_url": "Vinson Massif"}
    phrases = ("the wine", "this place", "this place")
    write_csv(tmp_path / "multimodal_known.csv", [same | {"main_entity": phrase} for phrase in phrases])
    _, rows, _ = import_released(tmp_path, tmp_path / "bed", images=[tmp_path / "images"])
    assert rows["status"].tolist() == ["left out", "kept", "left out"]
    assert rows.loc[2, "reason"] == "the same as an earlier row: 2"


PEOPLE = "This person was born in?"


def facts_about(root, *rows):
    """multimodal_known.csv of (main_entity, image_url), each about a fact and with a picture of its own; arguments."""
    facts, released = [], []
    for number, (phrase, url) in enumerate(rows):
        (root / "images" / str(number)).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(root / "images" / str(number) / "1.png")
        fact = {"subject": f"N{number}", "attribute": "Paris", "template": "", "prompt": "", "relation_id": "P19"}
        facts.append(fact)
        released.append({"question": PEOPLE, "subject": f"N{number}", "main_entity": phrase,
                         "image_url": str(number) if url is None else url})
    write_csv(root / "multimodal_known.csv", released)
    (root / "known.json").write_text(json.dumps(facts))
    return {"images": [root / "images"], "known": root / "known.json"}


def test_repairs_are_counted_of_rows_that_were_kept(tmp_path):
    rows = ("This person", None), ("This person.", None), ("This person?", "nowhere"), ("This person.", "elsewhere")
    _, frame, folders = import_released(tmp_path, tmp_path / "bed", **facts_about(tmp_path, *rows))
    assert summary(frame, folders).splitlines()[:3] == [
        "multimodal_known.csv: 1 kept + 1 repaired + 2 left out = 4 rows", "  repaired, punctuation removed: 1",
        "  left out, no image: 2",
    ]


def test_a_cell_without_a_word_costs_its_row(tmp_path):
    rows = [(cell, None) for cell in ("This person", "*", "#", "/", "_", "'")]
    _, frame, _ = import_released(tmp_path, tmp_path / "bed", **facts_about(tmp_path, *rows))
    assert frame["status"].tolist() == ["kept"] + ["left out"] * 5
    assert frame["reason"].str.contains("constraint").tolist() == [False] + [True] * 5


def test_a_row_that_names_no_image_is_not_called_unsafe(tmp_path):
    rows = ("This person", None), ("This person", ""), ("This person", "../images/0")
    _, frame, _ = import_released(tmp_path, tmp_path / "bed", **facts_about(tmp_path, *rows))
    assert frame["reason"].str.partition(":")[0].tolist() == ["", "no image", "unsafe image name"]
    assert frame.loc[1, "reason"] == "no image: the row names none"


def test_files_of_absent_parts_are_not_said_to_be_read(sources, tmp_path):
    root, _ = sources
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "multimodal_known.csv").write_bytes(
        (root / "data_constraints" / "multimodal_known.csv").read_bytes())
    arguments = paths(root) | {"films": tmp_path / "mistyped.pkl"}
    bed, _, _ = import_released(tmp_path / "data", tmp_path / "bed", **arguments)
    assert [file["name"] for file in history(bed.directory)[0]["inputs"]] == ["multimodal_known.csv", "known_1000.json"]


def test_pictures_are_opened_by_no_other_decoder(tmp_path, monkeypatch):
    arguments = facts_about(tmp_path, ("This person", None))
    Image.new("RGB", (9, 9)).save(tmp_path / "images" / "0" / "2.png")
    opened, plain = [], Image.open
    monkeypatch.setattr(Image, "open", lambda path, **options: (opened.append(options), plain(path, **options))[1])
    import_released(tmp_path, tmp_path / "bed", choice="largest", **arguments)
    assert len(opened) == 4 and all(options == {"formats": FORMATS} for options in opened)


def test_a_folder_that_is_there_already_is_kept(sources, tmp_path):
    root, _ = sources
    (tmp_path / "bed").mkdir()
    (tmp_path / "bed" / "mine.txt").write_text("mine")
    with pytest.raises(TestBedError, match=r"out: .* not empty: name a new folder"):
        import_released(root / "data_constraints", tmp_path / "bed", **paths(root))
    assert [path.name for path in tmp_path.rglob("*")] == ["bed", "mine.txt"]
    (tmp_path / "bed" / "mine.txt").unlink()
    import_released(root / "data_constraints", tmp_path / "bed", **paths(root))  # an empty one is as good as none


def test_nothing_is_left_of_a_run_that_is_interrupted(sources, tmp_path, monkeypatch):
    root, _ = sources

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("interventions.testbed.sources.new_testbed.add_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        import_released(root / "data_constraints", tmp_path / "bed", **paths(root))
    assert list(tmp_path.iterdir()) == []
