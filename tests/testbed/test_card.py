"""The dataset card: its counts, its history, and that what it tells to type works."""

import re
from dataclasses import replace

import pytest
from PIL import Image

from interventions.testbed import Item, TestBedError, load_testbed, save_testbed
from interventions.testbed.provenance import add_step, history, rewrite


@pytest.fixture
def bed(tmp_path):
    directory = tmp_path / "bed"
    (directory / "images").mkdir(parents=True)
    items = []
    for n in range(3):
        Image.new("RGB", (5 + n, 4), "red").save(directory / "images" / f"{n}.png")
        items.append(Item(
            id=f"known-{n}", part="known", question="The capital of this country is", answers=("Lima",),
            image=directory / "images" / f"{n}.png", visual_constraint="this country" if n else "",
            visual_replacement="Sri Lanka" if n == 2 else "",
        ))
    save_testbed(items, directory)
    return load_testbed(directory)


def test_rewriting_adds_a_step_and_counts_anew(bed, tmp_path):
    source = tmp_path / "source.txt"
    source.write_text("abc")
    add_step(bed.directory, "import", inputs=[source], counts={"kept": 3})
    assert "| `known` | single | 3 | 3 | 2 | 1 | 0 | 0 |" in (bed.directory / "README.md").read_text()
    changed = rewrite(
        bed, bed.items[:2], "verify", remove=["known-2"], settings={"prefer": "Ann"}, counts={"rejected": 1}
    )
    assert [item.id for item in changed] == ["known-0", "known-1"]
    first, second = history(bed.directory)
    assert first["inputs"] == [{
        "name": "source.txt", "bytes": 3, "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    }]
    assert (second["command"], second["settings"], second["counts"]) == ("verify", {"prefer": "Ann"}, {"rejected": 1})
    card = (bed.directory / "README.md").read_text()
    assert "| `known` | single | 2 | 2 | 1 | 0 | 0 | 0 |" in card
    assert "**import**" in card
    assert "counts: rejected 1" in card
    assert str(tmp_path) not in card  # nobody else's business


def test_what_was_not_selected_stays(bed):
    changed = [replace(item, visual_replacement="Mongolia") for item in bed.items[1:2]]
    after = rewrite(replace(bed, items=bed.items[1:2]), changed, "corruptions")
    assert [item.visual_replacement for item in after] == ["", "Mongolia", "Sri Lanka"]


def test_what_others_changed_meanwhile_is_not_overwritten(bed):
    marked = replace(bed.items[0], visual_constraint="this country")
    rewrite(bed, [marked], "verify")
    late = [replace(item, visual_constraint="The capital", visual_replacement="") for item in bed]  # of the old state
    after = rewrite(bed, late, "annotate", remove=["known-0"])
    assert [item.visual_constraint for item in after] == ["this country", "The capital", "The capital"]
    assert history(bed.directory)[-1]["counts"] == {"changed meanwhile": 1}


def test_items_come_back(bed):
    gone = rewrite(bed, [], "verify", remove=["known-1"])
    assert [item.id for item in gone] == ["known-0", "known-2"]
    assert [item.id for item in rewrite(gone, [bed.items[1]], "verify")] == ["known-0", "known-2", "known-1"]


def test_a_history_that_cannot_be_read_is_not_overwritten(bed):
    (bed.directory / "provenance.json").write_text("{")
    with pytest.raises(TestBedError, match=r"provenance.json is not readable"):
        add_step(bed.directory, "verify")
    assert (bed.directory / "provenance.json").read_text() == "{"


def test_datasets_loads_it_as_the_card_says(bed, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    add_step(bed.directory, "import")
    card = (bed.directory / "README.md").read_text()
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(re.search(r"```python\n(.*?)```", card, re.DOTALL)[1], names)
    assert [row["image"].size for row in names["rows"]] == [(5, 4), (6, 4), (7, 4)]
    assert names["rows"][2]["visual_replacement"] == "Sri Lanka"
    assert names["rows"][0]["answers"] == ["Lima"]
