"""The summary of a test bed: counts, found constraints, and examples."""

import pytest
import tiny
from answering import MULTI, SINGLE

from interventions.studies.testbed_summary import (
    count_items,
    example_frame,
    example_items,
    find_constraints,
    markdown_table,
)
from interventions.testbed import Item, TestBed


def item(number: int, part: str = "known", constraints: str = "single", **changes) -> Item:
    fields = (SINGLE if constraints == "single" else MULTI) | {"image": f"/images/{number % 4}.png"}
    fields |= {"entity": f"e{number % 3}", "relation": "capital", "answers": ("Lima",), "paraphrases": ()}
    return Item(id=f"{part}/{constraints}/{number}", part=part, **fields | changes)


@pytest.fixture
def bed(tmp_path):
    items = [*(item(n) for n in range(6)), *(item(n, "movies") for n in range(2)), item(0, "movies", "multi")]
    return TestBed("bed", tmp_path, tuple(items))


@pytest.fixture(scope="module")
def model():
    return tiny.build()


def test_counts_by_part_and_constraints(bed, model):
    counts = count_items(bed, find_constraints(model, bed)).set_index(["part", "constraints"])
    assert counts["questions"].to_dict() == {("known", "single"): 6, ("known", "multi"): 0, ("movies", "single"): 2,
                                             ("movies", "multi"): 1}
    known = counts.loc[("known", "single")]
    assert (known["entities"], known["images"], known["relations"], known["paper"]) == (3, 4, 1, 1200)
    assert (counts["checked"] == counts["questions"]).all()
    assert (counts["found"] == counts["questions"]).all()
    assert counts["paper"].isna().tolist() == [False, True, False, False]


def test_a_constraint_that_cannot_be_used_is_reported(bed, model):
    lost = item(7, visual_replacement="Sri </s> Lanka")  # what no item can know: it depends on the tokenizer
    found = find_constraints(model, TestBed("bed", bed.directory, (lost, *bed.items)))
    assert (found["reason"] != "").sum() == 1
    assert found.loc[found["id"] == lost.id, "reason"].str.contains("control token").all()
    counts = count_items(bed, found).set_index(["part", "constraints"]).loc[("known", "single")]
    assert (counts["checked"], counts["found"]) == (7, 6)


def test_a_text_only_model_needs_the_entity(bed):
    nameless = TestBed("bed", bed.directory, (item(0, entity=""), item(1)))
    found = find_constraints(tiny.build("gqa", None), nameless).set_index("id")["reason"]
    assert found["known/single/0"].startswith("entity not named")
    assert found["known/single/1"] == ""


def test_a_sample_can_be_checked(bed, model):
    found = find_constraints(model, bed, limit=2)
    assert found["part"].value_counts().to_dict() == {"known": 2, "movies": 2}
    assert set(found["id"]) == {chosen.id for chosen in bed.select(limit=2)}
    assert set(find_constraints(model, bed, limit=2, seed=1)["id"]) != set(found["id"])


def test_examples_prefer_other_questions_entities_and_images(bed):
    other = item(9, question="What is the name of this country?", entity="other", image="/images/other.png")
    many = TestBed("bed", bed.directory, (*bed.items, other))
    for seed in range(4):
        chosen = [found.id for found in example_items(many, 2, seed) if found.part == "known"]
        assert len(chosen) == 2
        assert other.id in chosen
    assert len(example_items(many, 2)) == 2 + 2 + 1  # as many as there are
    assert len({found.id for found in example_items(many, 5) if found.part == "known"}) == 5


def test_an_unknown_entity_is_not_the_same_one_again(tmp_path):
    same = [item(n, entity="", image=f"/images/{n}.png") for n in range(4)]
    other = item(9, question="What is the name of this country?", entity="", image="/images/9.png")
    for seed in range(4):
        assert other in example_items(TestBed("bed", tmp_path, (*same, other)), 2, seed)


def test_examples_as_a_table():
    frame = example_frame([item(0, "movies", "multi", answers=("Belize|Brazil", "x"))])
    assert frame.loc[0, ["id", "part", "constraints", "answer"]].tolist() == [
        "movies/multi/0", "movies", "multi", "Belize|Brazil"]
    lines = markdown_table(frame).splitlines()
    assert lines[2] == (
        "| movies | multi | Name a country that borders **this country** and starts with ***B*** | Belize\\|Brazil |"
    )
    assert len(lines) == 3


def test_items_on_their_way(bed, model):
    """Not marked is a reason; without a replacement the constraint itself can still be looked for."""
    unmarked = item(7, visual_constraint="", visual_replacement="")
    open_ = item(8, visual_replacement="")
    half = item(9, "movies", "multi", text_replacement=None)
    bed = TestBed("bed", bed.directory, (unmarked, open_, half))
    found = find_constraints(model, bed).set_index("id")["reason"]
    assert found.loc[unmarked.id].startswith("constraint not marked")
    assert found.loc[[open_.id, half.id]].tolist() == ["", ""]
    shown = example_frame([unmarked]).iloc[0]
    assert shown["pieces"] == [(unmarked.question, "")]
    assert f"| {unmarked.question} |" in markdown_table(example_frame([unmarked]))
