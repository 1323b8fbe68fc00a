"""The embedded test bed as the authors would have released it: what an importer can be tried on with a real model."""

import json
import pickle
import shutil

from benchmarks.synthetic_sources import write_csv


def write_as_released(testbed, root) -> dict:
    """Write single-constraint items as the three CSVs, their pictures and the sources of answers below `root`.

    Returns the arguments of `import_released` but `out`.
    """
    images, known, okvqa, movies = root / "images", [], [], []
    facts, films, asked, answered = [], [], [], []
    for n, item in enumerate(testbed.select(constraints="single"), start=1):
        row = {"question": item.question, "main_entity": item.visual_constraint}
        if item.part == "okvqa":
            name = f"./val2014/COCO_val2014_{n:012d}{item.image.suffix}"
            okvqa.append(row | {"image_url": name})
            asked.append({"image_id": n, "question_id": n, "question": item.question})
            answered.append({"question_id": n, "answers": [{"answer": item.answers[0]}] * 10})
            copy(item.image, images / name)
            continue
        row["image_url"] = f"./A photo of {item.entity}"
        copy(item.image, images / row["image_url"] / f"Image_1{item.image.suffix}")
        if item.part == "known":
            known.append(row | {"subject": item.entity})
            facts.append({
                "subject": item.entity, "attribute": item.answers[0], "relation_id": item.relation,
                "prompt": item.question, "template": item.question.replace(item.visual_constraint, "{}"),
            })
        else:
            movies.append(row | {"director": item.entity})
            films += [{"movie_name": name, "director_name": item.entity, "popularity": 0.0} for name in item.answers]
    for name, rows in (("multimodal_known", known), ("okvqa", okvqa), ("multimodal_movies", movies)):
        write_csv(root / "data_constraints" / f"{name}.csv", rows)
    (root / "known.json").write_text(json.dumps(facts))
    (root / "movies.pkl").write_bytes(pickle.dumps(films))
    (root / "questions.json").write_text(json.dumps({"questions": asked}))
    (root / "annotations.json").write_text(json.dumps({"annotations": answered}))
    return {
        "directory": root / "data_constraints", "images": [images], "known": root / "known.json",
        "films": root / "movies.pkl", "okvqa_questions": root / "questions.json",
        "okvqa_annotations": root / "annotations.json",
    }


def copy(source, target):
    if not target.parent.exists() or not any(path.stem == target.stem for path in target.parent.iterdir()):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
