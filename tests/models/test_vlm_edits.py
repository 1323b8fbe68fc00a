"""Optimized values, edits and fine-tuning of today's families against plain modules."""

import copy

import numpy as np
import pytest
import tiny
import torch
from asked_vlms import KEYS, ask, decided, load, next_token
from edits import weights_digest
from hooked import own_inputs
from peft import PeftModel
from transformers import AutoModelForImageTextToText

from benchmarks.editing import value_by_hooks
from interventions.editing.edit import apply_edits, export_peft, merged
from interventions.editing.evaluation import evaluate
from interventions.editing.fine_tuning import FineTuning, fine_tuned
from interventions.editing.multedit import edit_facts
from interventions.editing.optimized_value import Optimizer, optimize_value
from interventions.prompts.prompt import answer_tokens
from interventions.prompts.tokens import MAX_ANSWER_TOKENS

# In a test, pytest's own filters take the place of the one that `edit.py` sets.
pytestmark = pytest.mark.filterwarnings("ignore:.*was never reached. the loop asked for a step")
TARGET = "New Zealand"  # several tokens
FAR = Optimizer(steps=5, stop=1.0, learning_rate=0.3)


@pytest.fixture(params=KEYS)
def model(request):
    return load(request.param)


@torch.no_grad()
def log_p(module, prompt, ids):
    """log P of tokens behind a prompt, by one forward of a plain module."""
    whole = torch.cat([prompt.input_ids, torch.tensor(ids[:-1], dtype=torch.long)])[None]
    logits = module(**own_inputs(module, whole, prompt.image_inputs)).logits[0, len(prompt) - 1 :]
    return logits.log_softmax(-1)[range(len(ids)), ids].sum().item()


def logits_by_trace(model, prompt):
    with torch.no_grad():
        with model.traced.trace(**own_inputs(model.module, prompt.input_ids[None], prompt.image_inputs)):
            logits = model.traced.output.logits.save()
    return logits


def answer(module, model, prompt, n=MAX_ANSWER_TOKENS):
    inputs = own_inputs(model.module, prompt.input_ids[None], prompt.image_inputs)
    ids = module.generate(**inputs, max_new_tokens=n, do_sample=False)[0, len(prompt) :]
    return model.decode(ids)


@pytest.mark.parametrize("remote", [False, "local"])
def test_the_value_equals_hooks_and_adam_on_whole_forwards(model, remote, record_property):
    prompt, _ = decided(model)
    found = optimize_value(model, prompt, TARGET, layer=1, optimizer=FAR, remote=remote)
    ids = answer_tokens(model, prompt, TARGET)
    losses, value = value_by_hooks(model, prompt, ids, 1, prompt.constraint[-1], FAR)
    assert losses[0] == pytest.approx(-log_p(model.module, prompt, ids), abs=1e-4)
    difference = ((found.value - value).norm() / (found.value - found.start).norm()).item()
    record_property("difference", float(difference))
    record_property("effect", float(losses[0] - losses[-1]))
    np.testing.assert_allclose(found.losses, losses, rtol=0, atol=1e-4)
    assert losses[0] - losses[-1] > 0.3 and difference <= 1e-4


def test_an_edit_is_the_same_in_all_forms_and_goes(model, tmp_path, record_property):
    prompt, _ = decided(model)
    other = ask(model, tiny.picture(20), "The capital of this country is")
    before, weights = logits_by_trace(model, prompt), weights_digest(model)
    edit = edit_facts(model, [(prompt, TARGET)], layers=(1, 2), optimizer=Optimizer(1.0, steps=20), lam=1e-6)
    edited, written = apply_edits(model, [edit]), merged(model, [edit])

    model.module.save_pretrained(tmp_path / "model")
    bare = AutoModelForImageTextToText.from_pretrained(tmp_path / "model", dtype=torch.float32)
    by_hand = copy.deepcopy(bare)
    for layer in edit.layers:
        path = f"{model.family.language_model}.layers.{layer}.mlp.{model.family.w_proj}.weight"
        by_hand.get_parameter(path).data += edit.change(layer)
    adapted = PeftModel.from_pretrained(bare, export_peft(model, [edit], tmp_path / "adapter")).eval()

    ids, changed = answer_tokens(model, prompt, TARGET), 0.0
    for asked in (prompt, other):
        expected = next_token(written, asked.input_ids, asked.image_inputs)
        plain = own_inputs(by_hand, asked.input_ids[None], asked.image_inputs)
        with torch.no_grad():
            logits = [one(**plain).logits[0, -1] for one in (by_hand, adapted)]
        logits.append(logits_by_trace(edited, asked)[0, -1])
        difference = max((one.softmax(-1) - expected).abs().max().item() for one in logits)
        changed = max(changed, (next_token(model, asked.input_ids, asked.image_inputs) - expected).abs().max().item())
        record_property("difference", float(difference))
        assert difference <= 1e-5
    record_property("effect", float(changed))
    assert changed >= 0.3
    found = evaluate(edited, TARGET, {"target": [prompt], "pictures": [other]}, [])
    assert found["p_target"] == pytest.approx(np.exp(log_p(by_hand, prompt, ids)), abs=1e-5)
    assert found["p_pictures"] == pytest.approx(
        np.exp(log_p(by_hand, other, answer_tokens(model, other, TARGET))), abs=1e-5
    )
    assert {answer(one, model, prompt) for one in (by_hand, adapted, written.module)} == {found["after"]}
    assert torch.equal(logits_by_trace(model, prompt), before) and weights_digest(model) == weights


def test_fine_tuning_is_in_the_plain_module_and_goes(model):
    prompt, _ = decided(model)
    before, ids = weights_digest(model), answer_tokens(model, prompt, TARGET)
    start = log_p(model.module, prompt, ids)
    with fine_tuned(model, prompt, TARGET, settings=FineTuning(3e-3, steps=4)) as made:
        assert made.losses[-1] == pytest.approx(-log_p(model.module, prompt, ids), abs=1e-4)
    assert made.losses[0] == pytest.approx(-start, abs=1e-4)
    assert made.losses[-1] < made.losses[0] - 0.3
    assert weights_digest(model) == before
