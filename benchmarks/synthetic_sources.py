"""The sources of VQA-Constraints in their formats, made up: any size, every known defect, and what must become of it.

No row of the real files is in here. Every `EVERY`-th row has a defect, the kinds taking turns; the table that
`write_released` returns says of every row whether it must be kept, repaired or left out.
"""

from __future__ import annotations

import csv
import json
import pickle
import unicodedata
from collections import Counter
from pathlib import Path

import pandas as pd
from PIL import Image

from interventions.testbed.sources.files import read_known, read_relations

SIZES = {"known": 1204, "okvqa": 5046, "movies": 3214}  # rows of the released files
EVERY = 4
NOUNS = "animal building food sport vehicle plant place device bird flower".split()
ASKED = ("What is this {} used for?", "Where is this {} from?", "How old is this {}?", "Who invented this {}?")
HTML = "<!DOCTYPE html><html><body>404</body></html>"

# Of each kind: what must become of the row, and a word of the repair or the reason.
DEFECTS = {
    "punctuation": ("repaired", "punctuation removed"),
    "possessive": ("repaired", "possessive removed"),
    "cut_short": ("repaired", "compound completed"),
    "scattered": ("repaired", "words that stood apart joined"),
    "decomposed": ("repaired", "image name spelled in another way"),
    "first_is_html": ("repaired", "unusable images passed over"),
    "not_in_question": ("left out", "constraint not in the question"),
    "no_constraint": ("left out", "no constraint"),
    "no_image": ("left out", "no image"),
    "only_html": ("left out", "no usable image"),
    "outside": ("left out", "unsafe image name"),
    "unknown_subject": ("left out", "no fact about the subject", "no film of the director", "not among OK-VQA"),
    "doubled": ("left out", "the same as an earlier row"),
}
IMPOSSIBLE = {  # OK-VQA has one file a question; Known's facts tell the constraint all the same
    "known": {"not_in_question"}, "okvqa": {"first_is_html", "decomposed"}, "movies": set(),
}


class Released:
    """Rows, pictures and expectations of the three released files below `root`."""

    def __init__(self, root: Path, size: tuple[int, int], every: int) -> None:
        self.root, self.size, self.every = root, size, every
        self.images, self.expected, self._n_pictures = root / "images", [], 0

    def rows(self, part: str, clean: list[dict]) -> list[dict]:
        """`clean` rows (question, main_entity, image_url and what joins), every so many of them spoilt."""
        kinds = [kind for kind in DEFECTS if kind not in IMPOSSIBLE[part]]
        spoilt, named = [], Counter(row["image_url"] for row in clean)
        for number, row in enumerate(clean, start=1):
            alone = named[row["image_url"]] == 1  # two facts may be about one subject, and share its folder
            kind = kinds[number // self.every % len(kinds)] if number % self.every == 0 and alone else ""
            row = self._spoil(dict(row), kind, part, spoilt)
            status, *words = DEFECTS[kind] if kind else ("kept", "")
            self.expected.append((part, number, kind, status, "|".join(words)))
            spoilt.append(row)
        return spoilt

    def _spoil(self, row: dict, kind: str, part: str, before: list[dict]) -> dict:
        noun = row["main_entity"].split()[-1]
        if kind == "punctuation":
            row["main_entity"] += "?"
        elif kind == "possessive":
            row["question"], row["main_entity"] = f"What is {row['main_entity']}'s origin?", row["main_entity"] + "'s"
        elif kind == "cut_short":
            row["question"], row["main_entity"] = "This operating system was made where?", "This operating"
        elif kind == "scattered":
            row["question"] = row["question"].replace(f"his {noun}", f"his remarkable {noun}")
        elif kind == "not_in_question":
            row["main_entity"] = "that spaceship"
        elif kind == "no_constraint":
            row["main_entity"] = " ."
        elif kind == "outside":
            row["image_url"] = "../" * 6 + row["image_url"]
        elif kind == "unknown_subject":
            row[{"known": "subject", "movies": "director"}.get(part, "question")] = "Nobody Whosoever"
            if part == "okvqa":
                row["question"] = "Has this question been asked in OK-VQA?"
                row["main_entity"] = "this question"
        if kind == "doubled":
            return dict(next(r for r in before if r.get("_clean")))
        row["_clean"] = not kind
        self._pictures(row["image_url"], kind, part)
        return row

    def _pictures(self, name: str, kind: str, part: str) -> None:
        if kind in ("no_image", "outside"):
            return
        path = self.images / name
        if part == "okvqa":
            self._picture(path, kind == "only_html")
            return
        if kind == "decomposed":
            path = path.with_name(unicodedata.normalize("NFD", path.name).replace("A photo", "a photo"))
        for number in (1, 2, 10):
            is_html = kind == "only_html" or (kind == "first_is_html" and number == 1)
            self._picture(path / f"Image_{number}.jpg", is_html)

    def _picture(self, path: Path, html: bool) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if html:
            path.write_text(HTML)
            return
        self._n_pictures += 1
        n = self._n_pictures
        image = Image.linear_gradient("L").resize(self.size).convert("RGB")
        image.paste((n % 256, n // 256 % 256, 40), (0, 0, self.size[0] // 2, self.size[1] // 2))
        image.save(path, quality=80)


def write_released(
    root: Path, sizes: dict[str, int] = SIZES, *, size: tuple[int, int] = (640, 480), every: int = EVERY
) -> pd.DataFrame:
    """Write `data_constraints/*.csv`, `images/`, and the sources of answers below `root`.

    Returns what must become of every row: part, number, defect, status, words (one of them is in the repair or reason).
    """
    made = Released(root, size, every)
    (made.images / "A photo of nobody that a row names").mkdir(parents=True)
    annotated = root / "data_constraints"
    write_csv(annotated / "multimodal_known.csv", made.rows("known", _known(sizes["known"])))
    directors = [f"Zoë Director {n}" for n in range(sizes["movies"])]
    write_csv(annotated / "multimodal_movies.csv", made.rows("movies", [
        {"question": "Name a movie directed by this director?", "director": name, "main_entity": "this director",
         "image_url": f"./A photo of {name}"} for name in directors
    ]))
    write_films(root / "movies.pkl", directors)
    clean = _okvqa(sizes["okvqa"])
    write_csv(annotated / "okvqa.csv", made.rows("okvqa", clean))
    asked = [row["question"] for row in clean]
    for number, expected in zip(range(len(clean)), made.expected[-len(clean):], strict=True):
        # OK-VQA has the questions as they were asked, whatever the annotators' files made of the constraint.
        if expected[2] == "possessive":
            asked[number] = f"What is {clean[number]['main_entity']}'s origin?"
        elif expected[2] == "cut_short":
            asked[number] = "This operating system was made where?"
        elif expected[2] == "scattered":
            asked[number] = asked[number].replace("his ", "his remarkable ")
    write_okvqa(root, asked)
    return pd.DataFrame(made.expected, columns=["part", "number", "defect", "status", "words"])


def write_csv(path: Path, rows: list[dict]) -> None:
    """A CSV as the authors': the first column has no name and counts the rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = [name for name in rows[0] if not name.startswith("_")]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["", *columns])
        writer.writerows([n, *(row[column] for column in columns)] for n, row in enumerate(rows))


def write_films(path: Path, directors: list[str], films: int = 12197) -> None:
    """`movies.pkl`: a list of plain dictionaries; every tenth credit is a joint one."""
    rows = []
    for n in range(max(films, len(directors))):
        name = directors[n % len(directors)]
        joint = f"{name}, {directors[(n + 1) % len(directors)]}" if n % 10 == 9 else name
        rows.append({"movie_name": f"Film {n}", "director_name": joint, "popularity": float(n % 97)})
    path.write_bytes(pickle.dumps(rows))


def write_okvqa(root: Path, questions: list[str]) -> None:
    """OK-VQA's two JSON files: question n is about image n, nine annotators agree."""
    asked = [{"image_id": n, "question": q, "question_id": n * 10} for n, q in enumerate(questions, start=1)]
    answers = [
        {"image_id": entry["image_id"], "question_id": entry["question_id"], "question_type": "one",
         "answer_type": "other", "confidence": 3,
         "answers": [{"answer_id": i, "raw_answer": "tea", "answer": "tea" if i else "coffee",
                      "answer_confidence": "yes"} for i in range(10)]} for entry in asked
    ]
    (root / "questions.json").write_text(json.dumps({"questions": asked}))
    (root / "annotations.json").write_text(json.dumps({"annotations": answers}))


def _known(n: int) -> list[dict]:
    relations = read_relations()
    rows = []
    for fact in read_known()[:n]:
        relation = relations[fact["relation_id"]]
        rows.append({"question": relation["question"] + "?", "subject": fact["subject"],
                     "main_entity": relation["visual_constraint"],
                     "image_url": f"./A photo of {fact['subject'].replace('/', '_')}"})
    return rows


def _okvqa(n: int) -> list[dict]:
    rows = []
    for number in range(1, n + 1):
        noun = NOUNS[number % len(NOUNS)]
        rows.append({"question": ASKED[number % len(ASKED)].format(noun), "main_entity": f"this {noun}",
                     "image_url": f"./val2014/COCO_val2014_{number:012d}.jpg"})
    return rows
