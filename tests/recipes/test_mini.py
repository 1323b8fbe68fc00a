"""The embedded world, its test bed, the way the route is taught, and the checkpoints that ship."""

import csv
import random

import pytest
import torch

from interventions.testbed import load_image, load_testbed
from interventions.testbed.schema import EMBEDDED
from recipes.mini import route, stage, stages, train
from recipes.mini.build import build
from recipes.mini.items import build_items, card
from recipes.mini.route import (
    BETWEEN,
    CONSTRAINT,
    DECOY,
    DEEP,
    LAST,
    READ_LAYERS,
    SOURCE,
    Questions,
    Rows,
    Teacher,
    collate,
)
from recipes.mini.vocabulary import PROMPTS, TEXT_PROMPTS, make_processor, train_tokenizer
from recipes.mini.world import load_world


@pytest.fixture(scope="module")
def world():
    return load_world()


@pytest.fixture(scope="module")
def tokenizer(world):
    return train_tokenizer(world)


@pytest.fixture(scope="module")
def questions(world, tokenizer):
    return Questions(world, tokenizer)


def test_every_picture_and_fact_names_its_origin():
    with open(EMBEDDED / "pictures.csv", newline="", encoding="utf-8") as file:
        pictures = list(csv.DictReader(file))
    with open(EMBEDDED / "facts.csv", newline="", encoding="utf-8") as file:
        facts = list(csv.DictReader(file))
    assert len(pictures) > 1_500 and len(facts) > 2_000
    assert all(row["author"] and row["source"] and row["licence"] for row in pictures)
    assert all(row["source"] and row["licence"] for row in facts)
    listed = {row["file"] for row in pictures}
    assert listed == {str(path.relative_to(EMBEDDED)) for path in (EMBEDDED / "images").rglob("*.webp")}
    for row in random.Random(0).sample(pictures, 20):
        assert min(load_image(EMBEDDED / row["file"]).size) >= 48


def test_test_bed_is_large_enough_and_made_from_the_world():
    items = {item.id: item for item in load_testbed("embedded")}
    single = [item for item in items.values() if item.constraints == "single"]
    assert len(single) >= 1_500 and len(items) - len(single) >= 200
    assert len({item.entity for item in items.values()}) >= 300
    for part in ("known", "okvqa", "movies"):
        for constraints in ("single", "multi"):
            assert sum(item.part == part and item.constraints == constraints for item in items.values()) >= 50
    # one constant constraint, as in the paper
    assert {item.visual_constraint for item in items.values() if item.part == "movies"} == {"this country"}
    assert {item.split for item in single} == {"trained", "text_only", "never"}
    made = build_items()
    assert len(made) == len(items)
    assert card(made) == (EMBEDDED / "README.md").read_text()
    assert all((item.question, item.visual_replacement, item.answers) ==
               (items[item.id].question, items[item.id].visual_replacement, items[item.id].answers)
               for item in made if item.id in items and item.relation != "borders")


def test_replacements_change_the_answer(world):
    by_name = {(entity.name, fact.relation, fact.qualifier): fact for entity in world.entities.values()
               for fact in entity.facts}
    for item in build_items():
        other = by_name[item.visual_replacement, item.relation, item.text_constraint or ""]
        assert not set(other.answers) & set(item.answers)
        assert other.split != "never"


@pytest.mark.parametrize("shape", ["llava", "bunny"])
def test_training_sees_the_prompt_that_the_processor_makes(world, shape):
    tokenizer = train_tokenizer(world, shape)
    questions = Questions(world, tokenizer, shape)
    rows, processor = Rows(questions), make_processor(tokenizer, shape)
    for fact in random.Random(0).sample(world.facts, 40):
        row = rows.opening + [3] * 64 + rows.newline + list(questions(fact, 1, True).ids)
        text = PROMPTS[shape].format(question=world.question(fact, 1))
        image = load_image(EMBEDDED / world.pictures[world.entities[fact.entity].pictures[0]].file)
        assert processor(text=text, images=image, return_tensors="pt").input_ids[0].tolist() == row
        text = TEXT_PROMPTS[shape].format(question=world.question(fact, 1, world.entities[fact.entity].name))
        assert tokenizer(text).input_ids == rows.opening + rows.newline + list(questions(fact, 1, False).ids)


def test_facts_that_are_never_trained_are_in_no_row(world, questions):
    never = {fact for fact in world.facts if fact.split == "never"}
    text_only = {fact for fact in world.facts if fact.split == "text_only"}
    assert never and text_only
    assert not never & set(questions.text_facts)
    assert not (never | text_only) & {fact for facts in questions.trained.values() for fact in facts}


def masks_of(rows, taught, layered):
    batch = collate(rows)
    flags = [torch.full((len(rows),), flag) for flag in (taught, layered)]
    early, middle, deep = (mask[:, 0] == 0 for mask in route.attention_masks(batch["groups"], batch["roles"], *flags))
    return batch["roles"][0], batch["groups"][0], early[0], middle[0], deep[0]


def reads(mask, roles, query, key):
    return bool(mask[roles == query][:, roles == key].any())


def test_masks_teach_the_route(questions):
    rows = Rows(questions).pictures(["peru"], random.Random(0), False, 3)
    roles, groups, early, middle, deep = masks_of(rows, True, True)
    visual = groups == 1
    assert reads(early, roles, CONSTRAINT, SOURCE)
    assert not reads(middle, roles, CONSTRAINT, SOURCE) and not reads(deep, roles, CONSTRAINT, SOURCE)
    assert not any(reads(mask, roles, role, SOURCE) for mask in (early, middle, deep) for role in (BETWEEN, LAST))
    assert reads(deep, roles, LAST, CONSTRAINT)
    assert not reads(early, roles, LAST, CONSTRAINT) and not reads(middle, roles, LAST, CONSTRAINT)
    assert not any(reads(mask, roles, BETWEEN, CONSTRAINT) for mask in (early, middle, deep))
    assert not early[visual][:, groups == 2].any() and not early[groups == 2][:, visual].any()
    free = masks_of(rows, False, False)
    assert reads(free[2], roles, LAST, SOURCE) and reads(free[2], roles, CONSTRAINT, SOURCE)
    assert not torch.triu(free[2], 1).any()


def test_decoys_stand_where_the_picture_stands_and_only_mislead_the_direct_way(questions):
    row = Rows(questions).pictures(["peru"], random.Random(0), True, 2)[0]
    roles, positions = torch.tensor(row.roles), torch.tensor(row.positions)
    assert positions[roles == DECOY].tolist() == positions[roles == SOURCE].tolist()
    roles, _, early, _, deep = masks_of([row], True, False)
    assert reads(deep, roles, CONSTRAINT, SOURCE) and not reads(deep, roles, CONSTRAINT, DECOY)
    assert reads(early, roles, LAST, DECOY) and not reads(early, roles, LAST, SOURCE)
    assert not reads(early, roles, DECOY, SOURCE)


@pytest.mark.parametrize("shape", ["llava", "bunny"])
def test_a_packed_row_gives_the_loss_of_its_questions_asked_alone(tokenizer, questions, shape):
    torch.manual_seed(0)
    model = build(len(tokenizer), shape).eval()
    teacher, rows = Teacher(model.model.language_model), Rows(questions)
    asked = [questions.text(random.Random(i)) for i in range(3)]
    packed = route.pack(rows.opening, [], [], rows.newline, asked)
    none = torch.zeros(1, dtype=torch.bool)
    together, _ = teacher.loss([packed], none, none, model.get_input_embeddings(), model.lm_head)
    losses, count = 0.0, 0
    for question in asked:
        ids = rows.opening + rows.newline + list(question.ids) + list(question.answer[:-1])
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0]
        predicted = logits[-len(question.answer):].log_softmax(-1)
        losses -= predicted.gather(1, torch.tensor(question.answer)[:, None]).sum()
        count += len(question.answer)
    assert together.item() == pytest.approx(losses.item() / count, rel=1e-5)


def test_an_interrupted_stage_ends_in_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "SAVE_EVERY", 2)
    monkeypatch.setitem(stage.STAGES, "text", ((), 4))

    class Interrupted(stages.Text):
        def loss(self, step):
            if step == 3:
                raise KeyboardInterrupt
            return super().loss(step)

    for name, first in (("whole", stages.Text), ("parts", Interrupted)):
        (tmp_path / name).mkdir()
        try:
            first("text", tmp_path / name, 0).run()
        except KeyboardInterrupt:
            assert torch.load(tmp_path / name / "text.pt", weights_only=True)["done"] == 2
            stages.Text("text", tmp_path / name, 0).run()
    with pytest.raises(SystemExit, match="another seed"):
        stages.Text("text", tmp_path / "whole", 1).run()
    whole, parts = (torch.load(tmp_path / name / "text.pt", weights_only=True) for name in ("whole", "parts"))
    start = build(len(train_tokenizer(load_world()))).state_dict()
    assert whole["done"] == parts["done"] == 4
    assert all(torch.equal(value, parts["model"][name]) for name, value in whole["model"].items())
    assert not torch.equal(whole["model"]["lm_head.weight"], start["lm_head.weight"])


# stage -> parts of the model that it trains (the others stay as its parents left them)
TRAINED = {
    "text": {"model.language_model"},
    "vision": {"model.vision_tower"},
    "align": {"model.vision_tower", "model.multi_modal_projector"},
    "coreference": {"model.language_model.layers", "model.language_model.{norm}"},
    "joint": {"model.language_model", "model.vision_tower", "model.multi_modal_projector"},
    "joint_free": {"model.language_model", "model.vision_tower", "model.multi_modal_projector"},
}


@pytest.mark.parametrize(("shape", "norm"), [("llava", "norm"), ("bunny", "final_layernorm")])
def test_every_stage_starts_from_its_parents_and_trains_its_own_parts(tmp_path, monkeypatch, shape, norm):
    gallery = stages.Gallery(load_world())  # read once instead of four times
    monkeypatch.setattr(stages, "Gallery", lambda world: gallery)
    for cls, sizes in ((stages.Vision, {"batch": 6}), (stages.Align, {"batch": 6}),
                       (stages.Joint, {"batch": 8, "asked": 5, "questions": 2})):
        for name, value in sizes.items():
            monkeypatch.setattr(cls, name, value)
    for name, (parents, _) in list(stage.STAGES.items()):
        monkeypatch.setitem(stage.STAGES, name, (parents, 2))  # coreference begins with its second step
    monkeypatch.setattr(stage, "BUNNY_STEPS", {"joint": 2})
    for name, trained in TRAINED.items():
        run, trained = stages.CLASSES[name](name, tmp_path, 0, shape), {part.format(norm=norm) for part in trained}
        before = {key: value.clone() for key, value in run.model.state_dict().items()}
        run.run()
        after = run.model.state_dict()
        changed = {key for key in after if not torch.equal(before[key], after[key]) and key != "lm_head.weight"}
        assert all(any(key.startswith(part) for part in trained) for key in changed), name
        assert all(any(key.startswith(part) for key in changed) for part in trained), name
        for parent in stage.STAGES[name][0]:
            made = torch.load(tmp_path / f"{parent}.pt", weights_only=True)["model"]
            assert any(torch.equal(made[key], value) for key, value in before.items() if "weight" in key), parent
    assert train.steps_of("joint", shape) == {"text": 2, "coreference": 2, "vision": 2, "align": 2, "joint": 2}
    assert all(train.finished(tmp_path, name, 0, shape) for name in TRAINED)
    assert not train.finished(tmp_path, "joint", 1, shape)
    assert not train.finished(tmp_path, "joint", 0, {"llava": "bunny", "bunny": "llava"}[shape])


@pytest.mark.parametrize(("shape", "first"), [("llava", 0), ("bunny", READ_LAYERS)])
def test_skipped_layers_leave_the_constraint_only_what_their_mlps_add(tokenizer, questions, shape, first):
    """Phi's MLP does not see what its own layer has read, so the layers that read are not skipped there."""
    torch.manual_seed(0)
    model, outputs, mlps = build(len(tokenizer), shape), {}, {}
    teacher = Teacher(model.model.language_model, skip=1.0)
    for i, layer in enumerate(model.model.language_model.layers):
        layer.mlp.register_forward_hook(lambda module, args, output, i=i: mlps.update({i: output}))
        layer.register_forward_hook(lambda module, args, output, i=i: outputs.update({i: output}))
    rows = Rows(questions).pictures(["peru"], random.Random(0), False, 2)
    constraint = torch.tensor(rows[0].roles) == CONSTRAINT
    flags = torch.ones(1, dtype=torch.bool)
    teacher.loss(rows, flags, flags, lambda ids: model.get_input_embeddings()(ids), model.lm_head)
    skipped = [torch.equal(outputs[i][0, constraint], mlps[i][0, constraint]) for i in outputs]
    assert skipped == [first <= i < DEEP for i in range(len(skipped))]
    assert not torch.equal(outputs[first][0, ~constraint], mlps[first][0, ~constraint])


def test_imagined_pictures_lie_around_the_names(tmp_path):
    run = stages.Text("text", tmp_path, 0)
    run.offsets, run.center = run.names()
    torch.manual_seed(0)
    made = stages.Coreference.imagine(run, [3] * 64 + [9] * 64)  # [128, 64, WIDTH]
    assert made.shape[1:] == (64, run.offsets.shape[1])
    directions = torch.nn.functional.normalize(run.offsets, dim=-1)
    nearest = (torch.nn.functional.normalize(made.mean(1) - run.center, dim=-1) @ directions.T).argmax(-1)
    assert (nearest == torch.tensor([3] * 64 + [9] * 64)).float().mean() > 0.95
