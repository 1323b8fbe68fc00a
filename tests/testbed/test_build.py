"""Test beds from the original sources."""

import csv
import pickle

import pytest
from PIL import Image

from benchmarks.synthetic_sources import write_okvqa
from interventions.__main__ import main
from interventions.testbed import load_testbed
from interventions.testbed.sources.build import build_encyclopedic, build_movies, build_okvqa, changed_phrase
from interventions.testbed.sources.files import read_films, split_credits


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 9), "teal").save(path)
    return path


@pytest.mark.parametrize("below", ["", "val2014/"])  # the folder itself, or the one around it
def test_okvqa(tmp_path, below):
    write_okvqa(tmp_path, ["What is  this?", "Who made this dish?", "Where is this?"])
    for number in (1, 2):
        picture(tmp_path / "images" / f"{below}COCO_val2014_{number:012d}.jpg")
    bed, rows, _ = build_okvqa(
        tmp_path / "questions.json", tmp_path / "annotations.json", tmp_path / "bed", images=[tmp_path / "images"]
    )
    assert [item.question for item in bed] == ["What is this?", "Who made this dish?"]
    assert {item.visual_constraint for item in bed} == {""}  # for `annotate`
    assert bed.items[0].annotations == ("coffee",) + ("tea",) * 9
    assert list(rows["status"]) == ["kept", "kept", "left out"]
    assert rows.loc[2, "reason"] == "no image: COCO_val2014_000000000003"


def test_known_from_the_facts_in_the_package(tmp_path, capsys):
    picture(tmp_path / "images" / "Vinson Massif" / "a.jpg")
    picture(tmp_path / "images" / "A photo of Roman Republic" / "b.jpg")
    picture(tmp_path / "images" / "MacApp.png")
    assert main(["testbed", "build", "known", str(tmp_path / "bed"), "--images", str(tmp_path / "images")]) == 0
    assert "known_1000.json: 3 kept + 0 repaired + 1206 left out = 1209 rows" in capsys.readouterr().out
    massif, app, republic = load_testbed(tmp_path / "bed")
    assert (massif.question, massif.answers) == ("This place belongs to the continent of", ("Antarctica",))
    assert (republic.question, republic.visual_constraint) == ("The capital of this country is", "this country")
    assert republic.paraphrases[0] == "The capital city of this country is"
    assert (app.entity, app.answers, app.visual_constraint) == ("MacApp", ("Apple",), "This software")


@pytest.fixture
def films(tmp_path):
    rows = [
        {"movie_name": "Fargo", "director_name": "Joel Coen, Ethan Coen", "popularity": 9.0},
        {"movie_name": "Old", "director_name": "Joel Coen", "popularity": 50.0},
        {"movie_name": "Up", "director_name": "Pete Docter and Bob Peterson", "popularity": 1},
        {"movie_name": "", "director_name": "Nameless", "popularity": 1},
    ]
    (tmp_path / "movies.pkl").write_bytes(pickle.dumps(rows))
    for name in ("Joel Coen", "A photo of Ethan Coen", "Pete Docter"):
        picture(tmp_path / "images" / name / "Image_1.jpg")
    return tmp_path / "movies.pkl"


def test_movies(films, tmp_path):
    bed, rows, _ = build_movies(films, tmp_path / "bed", images=[tmp_path / "images"])
    assert {item.entity: item.answers for item in bed} == {
        "Joel Coen": ("Old", "Fargo"), "Ethan Coen": ("Fargo",), "Pete Docter": ("Up",)  # the most popular first
    }
    assert {item.visual_constraint for item in bed} == {"this director"}
    assert {item.constraints for item in bed} == {"single"}
    assert len(rows) == 4  # Bob Peterson has no image
    assert rows.loc[rows["status"] == "left out", "reason"].tolist() == ["no image: Bob Peterson"]


def test_movies_of_a_year(films, tmp_path):
    (tmp_path / "years.csv").write_text("movie_name,year\nFargo,1996\nOld,2021\n")
    arguments = {"images": [tmp_path / "images"], "years": tmp_path / "years.csv"}
    bed, rows, _ = build_movies(films, tmp_path / "bed", **arguments)
    multi = {(item.entity, item.text_constraint): item for item in bed if item.constraints == "multi"}
    assert set(multi) == {("Joel Coen", "1996"), ("Joel Coen", "2021"), ("Ethan Coen", "1996")}
    one = multi["Joel Coen", "1996"]
    assert one.question == "Name a movie directed by this director in year 1996"
    assert one.answers == ("Fargo",)
    assert all("1996" in text and "this director" in text for text in one.paraphrases)
    assert len(rows) == 4 + 3
    few = build_movies(films, tmp_path / "few", **arguments, multi=1)[0]
    other = [build_movies(films, tmp_path / str(seed), **arguments, multi=1, seed=seed)[0] for seed in range(6)]
    assert len(few) == 3 + 1
    assert len({bed.items[-1].question + bed.items[-1].entity for bed in other}) > 1


def test_years_of_films_that_share_a_name(films, tmp_path):
    text = "movie_name,director_name,year\nFargo,Ethan Coen,1996\nOld,Somebody Else,2021\n"
    (tmp_path / "years.csv").write_text(text)
    years = {film.name: film.year for film in read_films(films, tmp_path / "years.csv")}
    assert years == {"Old": None, "Fargo": 1996, "Up": None}


def test_years_of_joint_credits(films, tmp_path):
    text = 'movie_name,director_name,year\nFargo,"Joel Coen, Ethan Coen",1996\nUp,Pete Docter & Bob Peterson,2009\n'
    (tmp_path / "years.csv").write_text(text)
    years = {film.name: film.year for film in read_films(films, tmp_path / "years.csv")}
    assert years == {"Old": None, "Fargo": 1996, "Up": 2009}


@pytest.mark.parametrize(("text", "names"), [
    ("Joel Coen, Ethan Coen", ("Joel Coen", "Ethan Coen")), ("A and B", ("A", "B")),
    ("A & B; C | D", ("A", "B", "C", "D")),
    ("Robert Downey, Sr.", ("Robert Downey Sr.",)), ("Alexandra Sanders", ("Alexandra Sanders",)), ("A, A", ("A",)),
    (" , ", ()), ("A/B", ("A", "B")),
])
def test_joint_credits(text, names):
    assert split_credits(text) == names


LANDMARK = {
    "question": "How tall is this tower?", "answer": "300 m|330 m|300 m",
    "dataset_image_ids": "0123456789abcdef|fedcba9876543210",
    "dataset_name": "landmarks", "question_type": "templated", "wikipedia_title": "Eiffel Tower",
    "question_original": "How tall is Eiffel Tower?",
}


def test_encyclopedic(tmp_path):
    picture(tmp_path / "gld" / "train" / "f" / "e" / "d" / "fedcba9876543210.jpg")
    entries = [
        LANDMARK,
        LANDMARK | {"question": "Who designed it?", "question_original": "Who designed the Eiffel Tower?"},
        LANDMARK | {"dataset_name": "inaturalist"}, LANDMARK | {"question_type": "2_hop"},
        LANDMARK | {"answer": "A&&B"}, LANDMARK | {"answer": " | "},
        LANDMARK | {"dataset_image_ids": "../../secret|1111111111111111"},
    ]
    with (tmp_path / "val.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(LANDMARK))
        writer.writeheader()
        writer.writerows(entries)
    bed, rows, _ = build_encyclopedic(tmp_path / "val.csv", tmp_path / "bed", images=[tmp_path / "gld"])
    assert [(item.visual_constraint, item.answers, item.split) for item in bed] == [
        ("this tower", ("300 m", "330 m"), "never"), ("", ("300 m", "330 m"), "never")
    ]
    assert bed.items[0].entity == "Eiffel Tower"
    assert rows["reason"].tolist() == [
        "", "", "no landmark", "not of one step: 2_hop", "several answers together", "no answers",
        "no image: Eiffel Tower",
    ]
    assert rows.loc[0, "notes"] == "1 of 2 images were not downloaded"
    assert bed.parts == ("encyclopedic",)


def test_each_folder_of_images_is_searched(tmp_path):
    (tmp_path / "empty").mkdir()
    picture(tmp_path / "gld" / "0" / "1" / "2" / "0123456789abcdef.jpg")
    with (tmp_path / "val.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(LANDMARK))
        writer.writeheader()
        writer.writerow(LANDMARK)
    folders = [tmp_path / "empty", tmp_path / "gld"]
    assert len(build_encyclopedic(tmp_path / "val.csv", tmp_path / "bed", images=folders)[0]) == 1


def test_a_home_directory_is_read_and_recorded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    film = {"movie_name": "Up", "director_name": "Pete", "popularity": 1}
    (tmp_path / "movies.pkl").write_bytes(pickle.dumps([film]))
    picture(tmp_path / "images" / "Pete" / "1.jpg")
    bed, _, _ = build_movies("~/movies.pkl", "~/bed", images=["~/images"])
    card = (bed.directory / "README.md").read_text()
    assert "# bed: questions about images" in card  # the name that it has, not the one that it was made under
    assert 'root = "bed"' in card
    assert "-p testbed bed" in card
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_pictures_of_whatever_kind_can_be_read_are_found(films, tmp_path, capsys):
    for name in ("Joel Coen", "Ethan Coen", "Bob Peterson"):
        (tmp_path / "more" / name).mkdir(parents=True)
    Image.new("RGB", (12, 9)).save(tmp_path / "more" / "Bob Peterson" / "1.tif")
    Image.new("RGB", (12, 9)).save(tmp_path / "more" / "Somebody.tiff")
    command = ["testbed", "build", "movies", str(films), str(tmp_path / "bed")]
    assert main([*command, "--images", str(tmp_path / "images"), "--images", str(tmp_path / "more")]) == 0
    bed = load_testbed(tmp_path / "bed")
    assert {item.entity: item.image.suffix for item in bed}["Bob Peterson"] == ".tif"
    assert "that no row names" not in capsys.readouterr().out  # also of folders that an earlier one stands before


@pytest.mark.parametrize(("question", "original", "phrase"), [
    ("How tall is this tower?", "How tall is Eiffel Tower?", "this tower"),
    ("This church's architect was?", "Notre-Dame's architect was?", "This church"),
    ("Where does this river end?", "Where does the Rhine end?", "this river"),
    ("Who designed it?", "Who designed the Eiffel Tower?", ""),
    ("How tall is this tower?", "", ""), ("How tall is this tower?", "How tall is this tower?", ""),
])
def test_the_phrase_that_stands_for_a_name(question, original, phrase):
    assert changed_phrase(question, original) == phrase
