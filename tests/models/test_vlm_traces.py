"""Traces of today's families against PyTorch hooks on plain forwards: packed, rows and plain; sdpa and eager."""

import asked_vlms
import numpy as np
import pytest
from asked_vlms import KEYS, PLACES, TEXTS, chat_formats, decided, decided_donor, likeliest, load
from hooked import oracle

from interventions.engine.windows import Execution
from interventions.errors import PromptError
from interventions.prompts.corruption import noise
from interventions.tracing.causal_trace import Scoring, trace

KINDS = ("mlp", "attention", "hidden")
METHODS = ("packed", "rows", "plain")
LOOSE = Scoring(require_top=False)


# Without what test_nothing_before_an_image_that_sees_itself_is_intervened_on is about.
CASES = [(key, "sdpa", place) for key in KEYS for place in PLACES if (key, place) != ("gemma3", "after")]
CASES += [(key, "eager", "between") for key in KEYS]


@pytest.fixture(params=CASES, ids="-".join)
def model(request):
    return load(*request.param)


def sites(model, prompt):
    """The last tokens of image, constraint and prompt; not of an image that sees itself."""
    visual = () if model.family.image_block else prompt.visual[-1:]
    return (*visual, prompt.constraint[-1], prompt.last)


def check(model, prompt, corrupted, record_property, expects=(), **options):
    """All methods equal hooks, and there is something to be equal to."""
    options = {"answer": likeliest(model, prompt), "window": 2, "kinds": KINDS, "scoring": LOOSE} | options
    options["positions"] = sites(model, prompt)
    slow_too = not model.is_multimodal or model.prompt == chat_formats(model.name)["between"]
    methods = METHODS if slow_too else METHODS[:2]
    results = [trace(model, prompt, corrupted, execution=Execution(way), **options) for way in methods]
    p_clean, p_corrupted, restored = oracle(model, prompt, corrupted, results[0], *expects)
    for way, result in zip(methods, results, strict=True):
        difference = max(
            abs(result.p_clean - p_clean), abs(result.p_corrupted - p_corrupted),
            np.abs(result.restored - restored).max(),
        )
        record_property(way, float(difference))
        assert difference <= 1e-5
    effect = np.abs(results[0].effects).max()
    record_property("effect", float(effect))
    assert effect >= 0.3


def test_another_constraint(model, record_property):
    check(model, *decided(model), record_property)


def test_noise(model, record_property):
    """On the image and the constraint; where the image sees itself, on tokens behind it."""
    prompt, _ = decided(model)
    roles = ("visual", "constraint")
    if model.family.image_block:
        roles = ("constraint", "text_constraint", "last")
    found = []
    for seed in range(5):
        corrupted = noise(model, prompt, roles, samples=1, seed=seed)
        last = trace(model, prompt, corrupted, positions="last", answer=likeliest(model, prompt), scoring=LOOSE)
        found.append((last.p_clean - last.p_corrupted, corrupted))
    check(model, prompt, max(found, key=lambda one: one[0])[1], record_property)


def test_a_donor_with_another_image(model, record_property):
    prompt, corrupted = decided(model)
    donor = decided_donor(model)
    there = sites(model, donor)
    assert len(there) == len(sites(model, prompt))
    sources = dict(zip(sites(model, prompt), there, strict=True))
    check(
        model, prompt, corrupted, record_property, (donor, sources), donor=donor, answer=likeliest(model, donor)
    )


@pytest.mark.parametrize("way", ["sdpa", "eager"])
@pytest.mark.parametrize("key", TEXTS)
def test_text_only_counterparts(key, way, record_property):
    model = load(key, way)
    check(model, *decided(model), record_property)


@pytest.mark.parametrize("way", ["sdpa", "eager"])
def test_nothing_before_an_image_that_sees_itself_is_intervened_on(way):
    model = load("gemma3", way, "after")
    prompt, corrupted = decided(model)
    told = "^model 'gemma3' lets the tokens of an image see each other both ways, .* use a chat format"
    with pytest.raises(PromptError, match=told):
        trace(model, prompt, corrupted)
    model = load("gemma3", way)
    prompt = asked_vlms.ask(model)
    with pytest.raises(PromptError, match=told):
        trace(model, prompt, noise(model, prompt, "visual"))
    with pytest.raises(PromptError, match=told):
        trace(model, *decided(model), donor=decided_donor(model), positions="visual")
