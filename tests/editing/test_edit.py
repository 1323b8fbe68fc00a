"""An edit is one thing in four forms (nnsight edit, merged weights, PEFT adapter, file), and leaves the model alone."""

import json
from dataclasses import replace

import pytest
import safetensors.torch
import tiny
import torch
from answering import renamed
from peft import PeftModel
from safetensors import safe_open
from tiny import with_biases
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, LlamaForCausalLM

from interventions import (
    AttentionError,
    TraceError,
    attention_contributions,
    attention_knockout,
    load_model,
    load_testbed,
    trace,
)
from interventions.editing.edit import (
    FORMAT,
    Edit,
    Fact,
    apply_edits,
    digest,
    export_peft,
    load_edit,
    merged,
    w_proj,
)
from interventions.editing.multedit import edit_facts
from interventions.editing.optimized_value import Optimizer, optimize_value
from interventions.engine.forward import greedy_answer
from interventions.engine.windows import Execution
from interventions.errors import EditError
from interventions.models.model import VisionLanguageModel
from interventions.prompts.corruption import corrupt
from interventions.prompts.prompt import build_prompt
from interventions.tracing.causal_trace import Scoring

QUESTION = "Name a country that borders this country and starts with B"
# In a test, pytest's own filters take the place of the one that `edit.py` sets.
pytestmark = pytest.mark.filterwarnings("ignore:.*was never reached. the loop asked for a step")
FAR = Optimizer(steps=12, stop=1.0, learning_rate=0.3)
TINY_LAMBDA = 1e-6  # the old weights hardly resist, so the new output is the value


def picture(model):
    return tiny.picture() if model.is_multimodal else None


def ask(model, question=QUESTION, constraint="this country"):
    return build_prompt(model, question, picture(model), visual_constraint=constraint)


def inputs_of(prompt):
    image = prompt.image_inputs
    return {"input_ids": prompt.input_ids[None], **image}


def w_proj_path(model, layer):
    return f"{model.family.language_model}.layers.{layer}.mlp.{model.family.w_proj}.weight"


def weights_of(model):
    return {name: digest(weight) for name, weight in model.module.state_dict().items()}


@pytest.fixture(scope="module", params=[*tiny.SEEDS], ids=str)
def model(request):
    """Whatever the tests do with it, at the end it is what it was."""
    model = with_biases(tiny.build(*request.param))
    weights, logits = weights_of(model), logits_by_trace(model)
    yield model
    assert weights_of(model) == weights and torch.equal(logits_by_trace(model), logits)
    assert model.edits == () and model.unedited is None


def an_edit(model, *layers, rank=2, seed=0):
    """A change about half as large as what W_proj writes, at every token."""
    generator, factors = torch.Generator().manual_seed(seed), {}
    for layer in layers:
        d, m = w_proj(model, layer).weight.shape
        a, b = torch.randn(d, rank, generator=generator), torch.randn(rank, m, generator=generator)
        factors[layer] = a, b / m**0.5
    weights = {layer: digest(w_proj(model, layer).weight) for layer in layers}
    facts = (Fact(QUESTION, f"número {seed}", "item-1"),)
    return Edit(factors, model.name, model.revision, str(model.dtype), weights, 0.01, facts)


@torch.no_grad()
def logits_by_trace(model, inputs=None):
    with model.traced.trace(**(inputs or inputs_of(ask(model)))):
        logits = model.traced.lm_head.output.save()
    return logits


def apart(found, expected):
    """The largest difference of logits, relative to the largest logit."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


@torch.no_grad()
def greedy(module, prompt, n=20):
    """n tokens and the logits they were chosen by, a whole forward of a plain module each."""
    inputs, chosen = inputs_of(prompt), []
    for _ in range(n):
        logits = module(**inputs).logits[:, -1]
        chosen.append(logits)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], logits.argmax(-1, keepdim=True)], dim=1)
    return inputs["input_ids"][0, -n:].tolist(), torch.cat(chosen)


def answer(model, prompt, n=20):
    """n tokens as `generate_answer` makes them, behind a cache; no token ends them."""
    request = {
        "input_ids": prompt.input_ids[None], "positions": prompt.position_ids, "image_inputs": prompt.image_inputs,
        "eos_token_ids": (), "max_answer_tokens": n,
    }
    return greedy_answer(model.traced, request)


# One edit, four forms


def test_edit_merged_weights_and_peft_adapter_agree(model, tmp_path):
    """In one forward, and at each of 20 generated tokens; the oracle is the weights changed by hand."""
    prompt, edits = ask(model), [an_edit(model, 0, 2), an_edit(model, 2, 4, rank=3, seed=1)]
    assert all((w_proj(model, layer).bias is None) == ("phi" not in model.family.name) for layer in (0, 2, 4))
    plain = AutoModelForImageTextToText if model.is_multimodal else AutoModelForCausalLM
    model.module.save_pretrained(tmp_path / "model")
    by_hand = plain.from_pretrained(tmp_path / "model", dtype=torch.float32).eval()
    for edit in edits:
        for layer in edit.layers:
            by_hand.get_parameter(w_proj_path(model, layer)).data += edit.change(layer)
    with torch.no_grad():
        expected = by_hand(**inputs_of(prompt)).logits
        before = model.module(**inputs_of(prompt)).logits
    tokens, chosen = greedy(by_hand, prompt)
    assert apart(before, expected) > 0.1 and greedy(model.module, prompt)[0] != tokens

    edited, written = apply_edits(model, edits), merged(model, edits)
    export_peft(model, edits, tmp_path / "adapter")
    bare = plain.from_pretrained(tmp_path / "model", dtype=torch.float32)
    adapted = PeftModel.from_pretrained(bare, tmp_path / "adapter").eval()
    assert apart(logits_by_trace(edited), expected) < 1e-5
    assert apart(logits_by_trace(written), expected) < 1e-5
    with torch.no_grad():
        assert apart(adapted(**inputs_of(prompt)).logits, expected) < 1e-5
        assert apart(written.module(**inputs_of(prompt)).logits, expected) < 1e-5
    assert answer(edited, prompt) == answer(written, prompt) == tokens
    for one in (adapted, written.module):
        again, logits = greedy(one, prompt)
        assert again == tokens and apart(logits, chosen) < 1e-5
    whole = inputs_of(prompt) | {"input_ids": torch.cat([prompt.input_ids, torch.tensor(tokens)])[None]}
    assert apart(logits_by_trace(edited, whole)[:, len(prompt) - 1 : -1], chosen[None]) < 1e-5


@pytest.mark.parametrize("remote", [False, "local"])
def test_an_edit_that_an_intervention_does_not_reach_is_an_error_of_the_library(model, remote):
    prompt, edited = ask(model), apply_edits(model, [an_edit(model, 1, 3)])
    told = r"^this forward does not reach layer 1, which is edited: give `merged\(model\)`, .* edited model\.$"
    corrupted = corrupt(edited, prompt, visual_replacement="Sri Lanka")
    with pytest.raises(TraceError, match=told):
        trace(edited, prompt, corrupted, execution=Execution(remote=remote))
    with pytest.raises(AttentionError, match=told):
        attention_contributions(edited, prompt, layers=[0], remote=remote)
    with pytest.raises((AttentionError, TraceError), match=told):
        attention_knockout(edited, prompt, execution=Execution(remote=remote))


def test_nnsight_s_own_generation_has_the_edit_at_every_token(model):
    prompt, edited = ask(model), apply_edits(model, [an_edit(model, 1, 3)])
    options = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None}
    with torch.no_grad():
        with edited.traced.generate(**inputs_of(prompt), **options) as tracer:
            output = tracer.result.save()
    tokens, _ = greedy(merged(edited).module, prompt)
    assert output[0, -20:].tolist() == tokens != greedy(model.module, prompt)[0]


def test_a_change_from_the_second_token_on_is_in_the_answer():
    """The edit's key is that of the first generated token, less all that it has in common with any token before."""
    model = with_biases(tiny.build())
    model.module.generation_config.eos_token_id = []
    prompt, seen = ask(model), []
    tokens, _ = greedy(model.module, prompt, 6)
    handle = w_proj(model, 2).register_forward_hook(lambda _, args, output: seen.append(args[0][0]))
    with torch.no_grad():
        model.module(**inputs_of(prompt) | {"input_ids": torch.cat([prompt.input_ids, torch.tensor(tokens[:1])])[None]})
    handle.remove()
    keys, first = seen[0][:-1].double(), seen[0][-1].double()
    assert len(keys) < keys.shape[1]
    direction = first - torch.linalg.lstsq(keys.T, first).solution @ keys
    direction = (direction / direction.norm() ** 2).float()
    change = 30 * torch.randn(model.hidden_size, 1, generator=torch.Generator().manual_seed(0))
    edit = replace(an_edit(model, 2), factors={2: (change, direction[None])})
    edited = apply_edits(model, [edit])
    assert apart(logits_by_trace(edited), logits_by_trace(model)) < 1e-4  # the prompt is read as before
    changed, _ = greedy(merged(model, [edit]).module, prompt, 6)
    assert changed[0] == tokens[0] and changed[1] != tokens[1]
    assert answer(edited, prompt, 6) == changed
    text = model.tokenizer.decode(changed, skip_special_tokens=True).strip()
    assert edited.generate_answer(picture(model), QUESTION, 6) == text
    assert model.generate_answer(picture(model), QUESTION, 6) != text


def test_edits_add_up_in_any_order(model):
    one, two, three = an_edit(model, 1), an_edit(model, 1, 2, rank=3, seed=1), an_edit(model, 3, rank=1, seed=2)
    expected = logits_by_trace(merged(model, [one, two, three]))
    stacks = [
        apply_edits(model, [one, two, three]), apply_edits(model, [three, two, one]),
        apply_edits(apply_edits(model, [two]), [three, one]),
        apply_edits(apply_edits(apply_edits(model, [three]), [one]), [two]),
        merged(apply_edits(model, [three]), [two, one]),
    ]
    for stack in stacks:
        assert apart(logits_by_trace(stack), expected) < 1e-5
    for some in ([one, two], [one, three], [two, three]):
        assert apart(logits_by_trace(apply_edits(model, some)), expected) > 1e-2  # each of them counts
    assert stacks[2].edits == (two, three, one) and stacks[2].unedited is model


def test_the_unedited_model_stays_and_comes_back(model):
    """While edited views exist, the old view and the plain module give what they gave, bit for bit."""
    inputs = inputs_of(ask(model))
    before, weights = logits_by_trace(model), weights_of(model)
    edited = apply_edits(model, [an_edit(model, 1)])
    assert apart(logits_by_trace(edited), before) > 0.1
    assert torch.equal(logits_by_trace(model), before)
    with torch.no_grad():
        assert torch.equal(edited.module(**inputs).logits, model.module(**inputs).logits)
    assert edited.unedited is model and torch.equal(logits_by_trace(edited.unedited), before)
    merged(edited)
    assert weights_of(model) == weights_of(edited) == weights
    assert torch.equal(logits_by_trace(apply_edits(model, [])), before)


def test_merged_shares_all_other_weights_and_can_be_traced(model):
    edit = an_edit(model, 1, 3)
    written = merged(model, [edit])
    changed = {
        name for name, weight in written.module.state_dict().items()
        if weight.data_ptr() != model.module.state_dict()[name].data_ptr()
    }
    assert changed == {w_proj_path(model, layer) for layer in (1, 3)}
    for layer in (1, 3):
        expected = w_proj(model, layer).weight + edit.change(layer)
        torch.testing.assert_close(w_proj(written, layer).weight.data, expected.data, rtol=0, atol=0)
    prompt = ask(model)
    corrupted = corrupt(model, prompt, visual_replacement="New Zealand")
    options = {"window": 1, "positions": "constraint", "scoring": Scoring(max_answer_tokens=2)}
    fast = trace(written, prompt, corrupted, **options)
    # The edited view can be traced, too, if no layer is skipped: the same numbers by another way.
    slow = trace(apply_edits(model, [edit]), prompt, corrupted, **options, execution=Execution(method="plain"))
    assert fast.answer_ids == slow.answer_ids and abs(fast.restored - slow.restored).max() < 1e-5
    unedited = trace(model, prompt, corrupted, **options)
    assert abs(fast.restored - unedited.restored).max() > 1e-4


# What MultEdit makes of facts


def w_proj_output(model, layer, prompt):
    """What W_proj writes at the constraint's last token."""
    with torch.no_grad():
        with model.traced.trace(**inputs_of(prompt)):
            output = model.traced.layers[layer].mlp.down_proj.output.save()
    return output[0, prompt.constraint[-1]]


FACTS = (
    (QUESTION, "this country", "Paris, France"), ("The capital of this country is", "this country", "Lima"),
    ("this building is located in", "this building", "Peru"),
)


@pytest.mark.parametrize("n", [1, 3])
def test_facts_of_one_layer_get_their_values_together(model, n):
    """With next to no lambda W_proj writes each optimised value at its constraint."""
    facts = [(ask(model, *question), target) for *question, target in FACTS[:n]]
    edit = edit_facts(model, facts, layers=(2,), lam=TINY_LAMBDA, optimizer=FAR, items=[f"i{i}" for i in range(n)])
    assert edit.layers == (2,) and edit.rank == n and edit.lam == TINY_LAMBDA
    assert [(fact.question, fact.target, fact.item) for fact in edit.facts] == [
        (prompt.question, target, f"i{i}") for i, (prompt, target) in enumerate(facts)
    ]
    assert all(fact.p_before < fact.p_target <= 1 for fact in edit.facts)
    edited = apply_edits(model, [edit])
    for prompt, target in facts:
        found = optimize_value(model, prompt, target, layer=2, optimizer=FAR)
        scale = (found.value - found.start).norm().item()
        assert (w_proj_output(edited, 2, prompt) - found.value).norm().item() < 2e-3 * scale
        assert (w_proj_output(model, 2, prompt) - found.value).norm().item() > 0.5 * scale


def test_several_layers_share_what_is_missing(model):
    """The last layer's output at the constraint is the optimised one, and every layer has its part in it."""
    facts = [(ask(model, *question), target) for *question, target in FACTS[:2]]
    edit = edit_facts(model, facts, layers=(3, 1, 2), lam=TINY_LAMBDA, optimizer=FAR)
    assert edit.layers == (1, 2, 3) and edit.rank == 2
    edited = apply_edits(model, [edit])
    for prompt, target in facts:
        found = optimize_value(model, prompt, target, layer=3, optimizer=FAR)
        outputs = []
        for one in (model, edited):
            with torch.no_grad():
                with one.traced.trace(**inputs_of(prompt)):
                    output = one.traced.layers[3].output.save()
            outputs.append(output[0, prompt.constraint[-1]])
        wanted = found.value - found.start
        assert (outputs[1] - outputs[0] - wanted).norm() < 1e-2 * wanted.norm()
        first = w_proj_output(edited, 1, prompt) - w_proj_output(model, 1, prompt)
        assert (first - wanted / 3).norm() < 1e-2 * first.norm()
    assert all(edit.change(layer).norm() > 0 for layer in edit.layers)


def test_an_edited_model_is_edited_further_in_the_same_layer(model):
    first = edit_facts(model, [(ask(model), "Lima")], layers=(2,), lam=TINY_LAMBDA, optimizer=FAR)
    once, (*question, target) = apply_edits(model, [first]), FACTS[1]
    prompt = ask(model, *question)
    second = edit_facts(once, [(prompt, target)], layers=(2,), lam=TINY_LAMBDA, optimizer=FAR)
    found = optimize_value(once, prompt, target, layer=2, optimizer=FAR)
    output = w_proj_output(apply_edits(once, [second]), 2, prompt)
    scale = (found.value - found.start).norm().item()
    assert (output - found.value).norm().item() < 2e-3 * scale
    assert (w_proj_output(once, 2, prompt) - w_proj_output(model, 2, prompt)).norm().item() > 0.05 * scale


@pytest.mark.parametrize("layer", [1, 2])
@pytest.mark.parametrize(("start", "target"), [("The continent of", "Europe"), ("The language of", "English")])
def test_a_fact_of_the_embedded_model_is_changed(start, target, layer, tmp_path):
    """From a picture and a question to another answer, by way of a file; the old model still says the old one."""
    model = load_model("mini")
    item = next(
        item for item in load_testbed().select("known", "single", split="trained")
        if item.question.startswith(start) and target not in item.answers
        and model.generate_answer(item.image, item.question) in item.answers
    )
    prompt = build_prompt(model, item.question, item.image, visual_constraint=item.visual_constraint)
    path = edit_facts(model, [(prompt, target)], layers=(layer,), items=[item.id]).save(tmp_path / "an.edit")
    edit = load_edit(path, model)
    [fact] = edit.facts
    assert (fact.question, fact.target, fact.item) == (item.question, target, item.id) and fact.p_target > 0.9
    assert edit.rank == 1 and edit.revision == model.revision
    for edited in (apply_edits(model, [edit]), merged(model, [edit])):
        assert edited.generate_answer(item.image, item.question) == target
    assert model.generate_answer(item.image, item.question) in item.answers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"facts": []}, "facts and layers must not be empty"),
        ({"layers": ()}, "facts and layers must not be empty"),
        ({"layers": ["2"]}, r"layers must be whole numbers such as 2, not \['2'\]"),
        ({"layers": [2.0]}, "layers must be whole numbers"),
        ({"facts": [("no pair",)]}, "facts must be a list of"),
        ({"facts": [(None, "  ")]}, "facts must have targets of at least one word"),
        ({"facts": [(None, None)]}, "facts must have targets of at least one word"),
        ({"layers": 2}, r"facts must be a list of \(prompt, target\) pairs, and layers a list such as \[2\]"),
        ({"layers": (-1, 2)}, r"layers must be among the model's 0 to 4, not \[-1, 2\]"),
        ({"layers": (1, 5)}, r"layers must be among the model's 0 to 4, not \[1, 5\]"),
        ({"layers": (1, 4)}, "layer 4 gives no gradient"),
        ({"items": ["a", "b"]}, "items must be one id for each of the 1 facts, not 2"),
        ({"lam": 0.0}, "lam must be above 0"),
        ({"facts": [(None, "Li</s>ma")]}, "target contains '</s>', a control token of this model: leave it out"),
    ],
)
def test_what_cannot_be_edited_is_said_in_a_sentence(options, message):
    model = tiny.build()
    with pytest.raises(EditError, match=message):
        edit_facts(model, **{"facts": [(ask(model), "Lima")], "optimizer": replace(FAR, steps=1)} | options)


def test_one_prompt_has_one_target():
    """Two would be solved for by their mean, which says neither."""
    model = tiny.build()
    same = build_prompt(model, f" {QUESTION}", tiny.picture(), visual_constraint="this country")
    with pytest.raises(EditError, match=f"facts ask '{QUESTION}' twice, with the targets 'Lima' and 'Paris': give one"):
        edit_facts(model, [(ask(model), "Lima"), (ask(model, "The capital of this country was"), "Colombo"),
                           (same, "Paris")])
    other = build_prompt(model, QUESTION, tiny.picture(1), visual_constraint="this country")  # another picture
    for second in ((other, "Paris"), (same, " Lima")):
        edit = edit_facts(model, [(ask(model), "Lima"), second], optimizer=replace(FAR, steps=1))
        assert len(edit.facts) == 2


# Files


def test_saved_and_loaded_it_is_the_same_bit_for_bit(model, tmp_path):
    edit = an_edit(model, 3, 0, rank=3)
    edit = replace(edit, factors={layer: (a[:, ::2], b[::2]) for layer, (a, b) in edit.factors.items()}, lam=0.1 + 0.2)
    path = edit.save(tmp_path / "deep" / "an.edit")
    found = load_edit(path, model)
    assert replace(found, factors={}) == replace(edit, factors={})
    assert found.layers == (0, 3) and found.factors.keys() == edit.factors.keys()
    for layer, factors in edit.factors.items():
        for ours, theirs in zip(found.factors[layer], factors, strict=True):
            assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    assert [file.name for file in path.parent.iterdir()] == ["an.edit"]
    assert apart(logits_by_trace(apply_edits(model, [found])), logits_by_trace(apply_edits(model, [edit]))) == 0


def others():
    """Models that an edit of `tiny.build()`'s layer 4 was not made for, and what is said of each."""
    nudged = tiny.build()
    with torch.no_grad():
        w_proj(nudged, 4).weight[0, 0] += 1e-3  # one number is enough
    yield nudged, "whose weights differ from those of 'tiny-llama-clip': load it into that model"
    yield tiny.build(dtype=torch.bfloat16), "in torch.float32, .* is torch.bfloat16"
    yield tiny.build("gqa", "siglip"), "whose weights differ from those of 'tiny-gqa-siglip'"
    yield with_layers(3), "'short' has no layer 4"
    yield with_layers(5, intermediate_size=48), r"with W_proj of 32 x 64, but 'short' has 32 x 48: load it"


def with_layers(n, **changed):
    words = tiny.tokenizer()
    config = tiny.text_config("llama", len(words))
    config.update({"num_hidden_layers": n} | changed)
    return VisionLanguageModel.from_module(LlamaForCausalLM(config), words, name="short")


@pytest.mark.parametrize("which", range(5))
def test_an_edit_of_another_model_is_refused(tmp_path, which):
    model, (other, message) = tiny.build(), list(others())[which]
    edit = an_edit(model, 4)
    path = edit.save(tmp_path / "an.edit")
    load_edit(path, model)
    calls = (
        lambda: load_edit(path, other), lambda: apply_edits(other, [edit]), lambda: merged(other, [edit]),
        lambda: export_peft(other, [edit], tmp_path / "adapter"),
    )
    for call in calls:
        with pytest.raises(EditError, match=message):
            call()
    assert not (tmp_path / "adapter").exists() and other.edits == ()


def test_weights_elsewhere_are_known_by_their_revision():
    """On a server's model, of which only the skeleton is here."""
    model = tiny.build()
    edit = an_edit(model, 1)
    model.module.to("meta")
    edit.check(model)
    with pytest.raises(EditError, match="whose weights differ from"):
        replace(edit, revision="another").check(model)


def test_an_edit_is_made_without_the_weights(monkeypatch):
    """Of a server's model, only what its request returns is here."""
    model = tiny.build()
    facts = [(ask(model), "Lima")]
    here = edit_facts(model, facts, layers=[1], optimizer=FAR)
    assert_same_change(edit_facts(model, facts, layers=[1], optimizer=FAR, remote="local"), here)
    found = optimize_value(model, *facts[0], layer=1, optimizer=FAR)
    monkeypatch.setattr("interventions.editing.multedit.optimize_value", lambda *given, **options: found)
    model.module.to("meta")
    edit = edit_facts(model, facts, layers=[1])
    assert_same_change(edit, here)
    assert edit.weights == {1: ""}
    edit.check(model)
    with pytest.raises(EditError, match="has its weights on a server: use apply_edits"):
        merged(model, [edit])
    another = tiny.build()
    edit.check(another)  # of the same revision
    another.revision = "r2"
    with pytest.raises(EditError, match="whose weights differ from"):
        edit.check(another)


def assert_same_change(edit, expected):
    for layer in expected.layers:
        assert (edit.change(layer) - expected.change(layer)).norm() < 1e-5 * expected.change(layer).norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_are_edited_too(dtype):
    model = tiny.build(dtype=dtype)
    prompt = ask(model)
    edit = edit_facts(model, [(prompt, "Lima")], layers=[1], optimizer=FAR)
    before, edited, written = (
        logits_by_trace(one).float() for one in (model, apply_edits(model, [edit]), merged(model, [edit]))
    )
    assert (edited - written).abs().max() < 0.05 * (edited - before).abs().max()


@pytest.mark.parametrize("remote", [False, "local"])
def test_an_edited_model_can_be_edited_in_a_later_layer(remote):
    model = tiny.build()
    prompt, first = ask(model), an_edit(model, 1)
    edited, written = apply_edits(model, [first]), merged(model, [first])
    found, expected, other = (
        edit_facts(one, [(prompt, "Lima")], layers=[2], optimizer=FAR, remote=remote)
        for one in (edited, written, model)
    )
    scale = (expected.change(2) - other.change(2)).norm()
    assert (found.change(2) - expected.change(2)).norm() < 1e-2 * scale
    both = apply_edits(edited, [found])
    assert both.edits == (first, found) and apply_edits(model, [found, first]).edits == (found, first)
    for alone in (apply_edits, merged):
        with pytest.raises(EditError, match="made on a model with 1 others in force, which are missing"):
            alone(model, [found])


@pytest.mark.parametrize("given", [lambda edit: edit, lambda edit: ["an.edit"]])
def test_edits_are_given_in_a_list(given, tmp_path):
    model = tiny.build()
    for call in (apply_edits, merged, lambda *wrong: export_peft(*wrong, tmp_path / "adapter")):
        with pytest.raises(EditError, match=r"edits must be a list of Edit: write \[edit\]"):
            call(model, given(an_edit(model, 1)))


@pytest.mark.parametrize(("spoil", "words"), [
    (lambda told, tensors: told.pop("facts"), "is damaged .*facts"),
    (lambda told, tensors: told["weights"].update(two=""), "is damaged"),
    (lambda told, tensors: tensors.pop("1.b"), "is damaged .*1.b"),
    (lambda told, tensors: tensors["1.a"].fill_(torch.nan), "numbers that are not finite"),
])
def test_a_damaged_edit_is_refused(tmp_path, spoil, words):
    model = tiny.build()
    path = an_edit(model, 1).save(tmp_path / "an.edit")
    with safe_open(path, "pt") as file:
        told = json.loads(file.metadata()["edit"])
    tensors = safetensors.torch.load_file(path)
    spoil(told, tensors)
    safetensors.torch.save_file(tensors, path, metadata={"edit": json.dumps(told)})
    with pytest.raises(EditError, match=words):
        load_edit(path, model)


def test_what_is_stored_of_an_edited_model_has_a_name_of_its_own():
    model = renamed(tiny.build(), revision="r1")
    first, second = an_edit(model, 1), an_edit(model, 1, seed=5)
    keys = [one.key() for one in (
        model, apply_edits(model, [first]), apply_edits(model, [second]), apply_edits(model, [first, second])
    )]
    assert all(keys.count(key) == 1 for key in keys)
    assert keys[1] == apply_edits(model, [first]).key() and apply_edits(model, []).key() == keys[0]


def files(tmp_path):
    """What is no edit, and what is said of it."""
    whole = an_edit(tiny.build(), 1).save(tmp_path / "whole").read_bytes()
    (tmp_path / "truncated").write_bytes(whole[: len(whole) - 100])
    (tmp_path / "header").write_bytes(whole[:40])
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("an edit, honestly")
    (tmp_path / "directory").mkdir()
    safetensors.torch.save_file({"x": torch.ones(2)}, tmp_path / "weights")
    told = {"edit": json.dumps({"format": "interventions.edit/0"})}
    safetensors.torch.save_file({"x": torch.ones(2)}, tmp_path / "version", metadata=told)
    names = ("truncated", "header", "empty", "text", "directory", "missing")
    return dict.fromkeys(names, "cannot be read") | dict.fromkeys(
        ("weights", "version"), f"holds no edit of the format '{FORMAT}'"
    )


def test_what_is_no_edit_is_refused(tmp_path):
    model = tiny.build()
    for name, message in files(tmp_path).items():
        with pytest.raises(EditError, match=f"{message}.*: name (a file|one) that Edit.save wrote"):
            load_edit(tmp_path / name, model)


def test_an_interrupted_save_leaves_what_was_there(tmp_path, monkeypatch):
    model = tiny.build()
    path = an_edit(model, 1).save(tmp_path / "an.edit")
    before = path.read_bytes()

    def half(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", half)
    for name in ("an.edit", "another.edit"):
        with pytest.raises(OSError, match="No space left"):
            an_edit(model, 2).save(tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == ["an.edit"] and path.read_bytes() == before


def test_an_interrupted_export_leaves_what_was_there(tmp_path, monkeypatch):
    model = tiny.build()
    folder = export_peft(model, [an_edit(model, 1)], tmp_path / "adapter")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def half(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", half)
    with pytest.raises(OSError, match="No space left"):
        export_peft(model, [an_edit(model, 2)], folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_an_adapter_has_the_edits_that_the_model_has(tmp_path):
    model = tiny.build()
    one, two = an_edit(model, 1), an_edit(model, 3, rank=4, seed=1)
    ways = (model, [one, two]), (apply_edits(model, [one]), [two]), (apply_edits(model, [one, two]), [])
    found = [export_peft(*way, tmp_path / str(i)) / "adapter_model.safetensors" for i, way in enumerate(ways)]
    assert len({path.read_bytes() for path in found}) == 1
    with pytest.raises(EditError, match="edits must not be empty"):
        export_peft(model, [], tmp_path / "none")


# Edited models in the other interventions


@pytest.mark.parametrize("remote", [False, "local"])
def test_a_layer_that_is_not_run_cannot_be_edited(remote):
    """One sentence, instead of nnsight's complaint of an order that nobody chose."""
    model = tiny.build()
    prompt = ask(model)
    corrupted = corrupt(model, prompt, visual_replacement="New Zealand")
    edited = apply_edits(model, [an_edit(model, 1)])
    for call in (
        lambda: trace(
            edited, prompt, corrupted, scoring=Scoring(max_answer_tokens=1), execution=Execution(remote=remote)
        ),
        lambda: attention_knockout(edited, prompt, execution=Execution(remote=remote)),
        lambda: attention_contributions(edited, prompt, layers=(0,), remote=remote),
        lambda: attention_contributions(edited, prompt, layers=(1,), remote=remote),
    ):
        with pytest.raises(ValueError, match=r"layer 1, which is edited: give `merged\(model\)`"):
            call()


def test_where_all_edited_layers_run_the_edited_model_will_do(model):
    prompt, edit = ask(model), an_edit(model, 1)
    edited, written = apply_edits(model, [edit]), merged(model, [edit])
    found, expected, unedited = (attention_contributions(one, prompt).norms for one in (edited, written, model))
    assert abs(found - expected).max() < 1e-5 * expected.max() < abs(unedited - expected).max() / 1000
    found, expected, unedited = (
        optimize_value(one, prompt, "Lima", layer=1, optimizer=FAR) for one in (edited, written, model)
    )
    scale = (expected.value - unedited.value).norm()
    assert scale > 0.1 and (found.value - expected.value).norm() < 1e-2 * scale
