"""Remote equals local: every intervention, with a trusted key and in the sandbox, where effects are large."""

import asked
import numpy as np
import pytest
import torch

from interventions import (
    apply_edits,
    attention_contributions,
    attention_knockout,
    edit_facts,
    load_edit,
    load_model,
    noise,
    optimize_value,
    trace,
)
from interventions.attention.contributions import EXTRAS
from interventions.editing.evaluation import evaluate, questions_about, reference
from interventions.engine.runs import own_answer
from interventions.engine.windows import Execution
from interventions.errors import EditError, NoGradientError
from interventions.studies.transplant import other_items
from interventions.tracing.causal_trace import Scoring

CLOSE = 1e-5  # the tolerance, in probability
NAMES = ("mini", "mini-bunny", "mini-text")  # Llama with CLIP, Phi with SigLIP, a language model


@pytest.fixture(params=NAMES)
def pair(request, kind, here):
    """The same model here and on the server."""
    name = request.param
    return (here if name == "mini" else load_model(name)), load_model(name, remote=True)


@pytest.fixture
def mini(kind, here):
    return here, load_model("mini", remote=True)


def clear(effects) -> bool:
    """Whether there is something to be equal about."""
    return np.nanmax(np.abs(effects)) > 0.2


@pytest.mark.parametrize("method", ["packed", "rows"])
def test_trace(pair, method):
    local, remote = pair
    prompt, corrupted = asked.both_prompts(local, asked.items(1)[0])
    a, b = (trace(model, prompt, corrupted, window=3, execution=Execution(method=method)) for model in (local, remote))
    assert clear(a.effects) and a.answer_ids == b.answer_ids
    np.testing.assert_allclose(b.restored, a.restored, rtol=0, atol=CLOSE)
    assert b.p_clean == pytest.approx(a.p_clean, abs=CLOSE)


def test_trace_by_separate_runs_by_the_whole_answer_and_with_noise(mini):
    local, remote = mini
    item = asked.items(1, constraints="multi")[0]
    prompt, corrupted = asked.visual_prompts(local, item)
    few = {"positions": ("constraint",), "kinds": "mlp", "window": 3}
    noised = noise(local, prompt, ("visual", "constraint"), samples=2, scale=3.0)
    for options, changed in (
        (few | {"execution": Execution(method="plain")}, corrupted),
        ({"scoring": Scoring("sequence"), "window": 6}, corrupted), ({"window": 8}, noised),
    ):
        a, b = (trace(model, prompt, changed, **options) for model in (local, remote))
        assert clear(a.effects)
        np.testing.assert_allclose(b.restored, a.restored, rtol=0, atol=CLOSE)


@pytest.mark.parametrize("method", ["packed", "rows"])
def test_transplant(pair, method):
    """Outputs of modules and of whole layers, from another question's run."""
    local, remote = pair
    items = asked.items(60)
    item, other = next((one, two) for one in items for two in other_items(one, items))
    prompt, corrupted = asked.both_prompts(local, item)
    donor, _ = asked.both_prompts(local, other)
    answers = [own_answer(local, prompt).ids, own_answer(local, donor).ids]
    settings = {"donor": donor, "answers": answers, "kinds": ("mlp", "attention", "hidden"), "positions": "constraint",
                "scoring": Scoring(require_top=False), "execution": Execution(method=method)}
    a, b = (trace(model, prompt, corrupted, **settings) for model in (local, remote))
    assert clear(a.other_answers[0].effects) or not local.is_multimodal  # a word of a name is not the whole name
    for one, two in ((a, b), (a.other_answers[0], b.other_answers[0])):
        np.testing.assert_allclose(two.restored, one.restored, rtol=0, atol=CLOSE)
        assert two.p_donor == pytest.approx(one.p_donor, abs=CLOSE)


def test_contributions(pair):
    local, remote = pair
    prompt, _ = asked.both_prompts(local, asked.items(1)[0])
    a, b = (attention_contributions(model, prompt, also=EXTRAS) for model in (local, remote))
    assert a.norms.max() > 0.1
    for name in ("norms", *EXTRAS):
        np.testing.assert_allclose(getattr(b, name), getattr(a, name), rtol=1e-5, atol=1e-5)
    early = [attention_contributions(model, prompt, layers=(1, 2)).norms for model in (local, remote)]
    np.testing.assert_allclose(early[1], early[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", ["packed", "rows"])
def test_knockout(pair, method):
    local, remote = pair
    prompt, _ = asked.both_prompts(local, asked.items(1)[0])
    a, b = (attention_knockout(model, prompt, execution=Execution(method=method)) for model in (local, remote))
    assert np.abs(a.p_all_blocked - a.p_clean).max() > 0.2
    np.testing.assert_allclose(b.p_blocked, a.p_blocked, rtol=0, atol=CLOSE)
    np.testing.assert_allclose(b.p_all_blocked, a.p_all_blocked, rtol=0, atol=CLOSE)


def test_generation(pair):
    """Answers of several tokens, which need the keys and values of those before."""
    local, remote = pair
    prompts = [asked.both_prompts(local, item) for item in asked.items(8)]
    answers = [trace(local, *both, positions=(0,)).answer_ids for both in prompts]
    longest = max(range(8), key=lambda i: len(answers[i]))
    assert len(answers[longest]) > 1
    assert trace(remote, *prompts[longest], positions=(0,)).answer_ids == answers[longest]


def test_edits_change_what_is_generated(mini, kind, tmp_path):
    """An edit made here, in force there: as a view of the server's weights, which stay what they are."""
    local, remote = mini
    item = asked.items(1)[0]
    prompt, _ = asked.both_prompts(local, item)
    targets = ["Peso", "Port-au-Prince"]  # one token and several
    before = remote.generate_answer(item.image, item.question)
    for target in targets:
        edit = edit_facts(local, [(prompt, target)], layers=[2])
        there = apply_edits(remote, [load_edit(edit.save(tmp_path / "edit.safetensors"), remote)])
        edited = apply_edits(local, [edit]).generate_answer(item.image, item.question)
        assert there.generate_answer(item.image, item.question) == edited != before
        questions, pool = questions_about(local, item, []), [reference(local, other) for other in asked.items(4)[1:]]
        a = evaluate(apply_edits(local, [edit]), target, questions, pool)
        b = evaluate(there, target, questions, pool)
        assert a["p_target"] > 0.1 and b == pytest.approx(a, abs=CLOSE, nan_ok=True)
    assert remote.generate_answer(item.image, item.question) == before


def test_value_optimisation(here, trusted):
    remote = load_model("mini", remote=True)
    prompt, _ = asked.both_prompts(here, asked.items(1)[0])
    a, b = (optimize_value(model, prompt, "Peso", layer=2) for model in (here, remote))
    assert a.p_start < 0.1 < 0.9 < a.p_target and a.steps == b.steps
    torch.testing.assert_close(b.value, a.value, rtol=0, atol=CLOSE)
    edits = [edit_facts(model, [(prompt, "Peso")], layers=[1, 2]) for model in (here, remote)]
    for layer in (1, 2):
        torch.testing.assert_close(edits[1].change(layer), edits[0].change(layer), rtol=0, atol=1e-4)


def test_a_sandbox_is_no_place_to_find_values(ask_as, here):
    """Gradients are silently None there: neither an edit that fails nor a layer without one, but a refusal."""
    ask_as("sandboxed")
    remote = load_model("mini", remote=True)
    prompt, _ = asked.both_prompts(here, asked.items(1)[0])
    with pytest.raises(EditError, match="in a sandbox, which has no gradients") as refused:
        optimize_value(remote, prompt, "Peso", layer=2)
    assert not isinstance(refused.value, NoGradientError)  # which a study counts as an edit that was not made
