"""The checkpoints that ship: what they are, what they know, and that tracing tells the two routes apart."""

import json
import random

import pytest
from transformers import LlamaForCausalLM, LlavaForConditionalGeneration

from interventions import load_model, load_testbed
from interventions.models.checkpoints import CHECKPOINTS
from interventions.studies.loop import RunOptions
from interventions.testbed.schema import PAPER_PARTS
from interventions.tracing.averages import by_role_layer
from interventions.tracing.study import trace_study
from recipes.mini.card import write_card
from recipes.mini.evaluate import KNOCK_OUTS, Evaluator

TAUGHT = ("mini", "mini-bunny")


@pytest.fixture(scope="module", params=[*TAUGHT, "mini-free"])
def evaluator(request):
    model = load_model(request.param)
    return request.param, Evaluator(model.module, model.tokenizer)


def seen_facts(evaluator, part, n=100):
    facts = [fact for fact in evaluator.world.facts if fact.split == "trained" and evaluator.world.part(fact) == part]
    return evaluator.pictures(random.Random(0).sample(facts, n), rng=random.Random(0))


def measured(name):
    """The accuracies in the model card."""
    return json.loads((CHECKPOINTS / name / "training.json").read_text())["accuracy"]


def test_checkpoints_are_small_and_unmodified_hugging_face_models():
    assert sum(path.stat().st_size for path in CHECKPOINTS.rglob("*") if path.is_file()) < 42e6
    assert sum(path.stat().st_size for path in (CHECKPOINTS / "mini-bunny").iterdir()) < 15e6
    assert not [path for path in CHECKPOINTS.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]
    for name, cls in {"mini": LlavaForConditionalGeneration, "mini-free": LlavaForConditionalGeneration,
                      "mini-text": LlamaForCausalLM, "mini-bunny": LlavaForConditionalGeneration}.items():
        module = load_model(name).module
        assert type(module) is cls
        assert not any(hook for part in module.modules() for hook in (part._forward_pre_hooks, part._forward_hooks)
                       if part.__class__.__module__.startswith("transformers.models.") and hook)
    config = load_model("mini-bunny").config
    assert (config.text_config.model_type, config.vision_config.model_type) == ("phi", "siglip_vision_model")


@pytest.mark.parametrize("part", PAPER_PARTS)
def test_accuracy_is_what_the_model_card_says(evaluator, part):
    name, evaluator = evaluator
    said = measured(name)
    facts, pictures = seen_facts(evaluator, part)
    for row, wording, augment in (("seen style, new augmentation", 0, True), ("held-out paraphrase", 3, False)):
        found = evaluator.score(facts, wording, pictures, augment=augment)["accuracy"]
        assert abs(found - said[f"{part}: {row}"]["accuracy"]) <= 0.07  # another sample, of 100: two standard errors


def test_mini_knows_what_it_was_trained_for():
    said, free = measured("mini"), measured("mini-free")
    for part in PAPER_PARTS:
        row = f"{part}: seen style, new augmentation"
        assert said[row]["accuracy"] >= 0.95
        assert abs(said[row]["accuracy"] - free[row]["accuracy"]) <= 0.05
        assert said[f"{part}: held-out paraphrase"]["accuracy"] >= 0.9
    assert said["all: held-out style"]["accuracy"] >= 0.75
    assert said["corrupted: another entity named"]["median"] <= 0.02


def test_mini_bunny_knows_nearly_as_much():
    said = measured("mini-bunny")
    for part in PAPER_PARTS:
        assert said[f"{part}: seen style, new augmentation"]["accuracy"] >= 0.9
        assert said[f"{part}: held-out paraphrase"]["accuracy"] >= 0.85
    assert said["all: held-out style"]["accuracy"] >= 0.75
    assert said["corrupted: another entity named"]["median"] <= 0.02


def test_knock_outs_tell_the_two_routes_apart(evaluator):
    name, evaluator = evaluator
    facts, pictures = seen_facts(evaluator, "known")

    def accuracy(knock_out=None):
        return evaluator.score(facts, 0, pictures, knock_out=knock_out and KNOCK_OUTS[knock_out])["accuracy"]

    intact, cut = accuracy(), accuracy("visual -> constraint")
    detour = accuracy("visual -> all text but the constraint")
    assert accuracy("visual -> all text") < 0.4 * intact  # the picture is needed by both
    if name in TAUGHT:
        assert cut < 0.5 * intact
        assert detour > intact - 0.03  # no backup past the constraint
        assert accuracy("constraint -> all after") < 0.6 * intact
    else:
        assert cut > intact - 0.03
        assert detour < 0.5 * intact


def test_tracing_tells_the_two_routes_apart(tmp_path):
    items = load_testbed("embedded").select(constraints="single", limit=40)  # those of Figure 3
    effects = {}
    for name in ("mini", "mini-free"):
        study = trace_study(load_model(name), items, window=3, run=RunOptions(results_dir=tmp_path))
        table = by_role_layer(study.sites).query("role == 'constraint_last' and layer < 4")
        effects[name] = table.pivot_table(index=["part", "kind"], columns="layer", values=["effect", "low"])
    taught, free = effects["mini"], effects["mini-free"]
    assert ((taught["effect"].xs("mlp", level="kind") >= 0.5).sum(axis=1) >= 2).all()
    assert (taught["effect"].xs("attention", level="kind").max(axis=1) >= 0.5).all()
    assert (taught["low"].where(taught["effect"] >= 0.5).min(axis=1) > 0).all()
    assert (free["effect"] <= 0.1).all(axis=None)


def test_model_card_is_made_from_the_measurements(tmp_path):
    for path in CHECKPOINTS.glob("*/training.json"):
        (tmp_path / path.parent.name).mkdir()
        (tmp_path / path.parent.name / path.name).write_text(path.read_text())
    assert write_card(tmp_path).read_text() == (CHECKPOINTS / "README.md").read_text()
    assert f"{measured('mini')['knock-out: visual -> constraint']['accuracy']:.3f}" in write_card(tmp_path).read_text()
