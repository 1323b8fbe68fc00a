"""Fine-tuning against plain autograd on a copy of the whole model, and what it must leave alone."""

import copy

import numpy as np
import pytest
import tiny
import torch
from answering import renamed
from edits import weights_digest
from tiny import QUESTION, ask

from interventions.editing.edit import Edit
from interventions.editing.fine_tuning import FineTuning, fine_tuned
from interventions.errors import DivergedError, EditError
from interventions.prompts.prompt import answer_tokens

TARGET = "New Zealand"  # several tokens
SETTINGS = FineTuning(3e-3, steps=100)


@pytest.fixture(scope="module", params=tiny.SEEDS, ids=str)
def model(request):
    return tiny.build(*request.param)


@pytest.fixture(scope="module")
def llava():
    return tiny.build()


def weights(model) -> dict:
    return {name: weight.detach().clone() for name, weight in model.module.named_parameters()}


def in_layers(model, name: str) -> bool:
    return name.startswith(f"{model.family.language_model}.layers.")


def loss_of(module, prompt, target_ids):
    """-log P(target) by one forward of everything, image included."""
    ids = torch.cat([prompt.input_ids, torch.tensor(target_ids[:-1], dtype=torch.long)])[None]
    image = prompt.image_inputs
    log_p = module(input_ids=ids, **image).logits[0, len(prompt) - 1 :].log_softmax(-1)
    return -sum(log_p[i, token] for i, token in enumerate(target_ids))


def p_whole(model, prompt, target=TARGET) -> float:
    with torch.no_grad():
        return (-loss_of(model.module, prompt, answer_tokens(model, prompt, target))).exp().item()


def test_it_learns_until_the_stop_and_only_in_the_language_layers(model):
    prompt, before, name = ask(model), weights(model), weights_digest(model)
    p_before = p_whole(model, prompt)
    with fine_tuned(model, prompt, TARGET, settings=SETTINGS) as made:
        inside, p_inside = weights(model), p_whole(model, prompt)
        assert weights_digest(model) != name
        assert not any(weight.requires_grad or weight.grad is not None for weight in model.module.parameters())
    assert p_before < 0.1 and made.p_start == pytest.approx(p_before, abs=1e-6)
    assert 1 <= made.steps < SETTINGS.steps and made.seconds > 0
    assert made.p_target >= 0.99 > np.exp(-made.losses[-2])
    assert p_inside == pytest.approx(made.p_target, abs=1e-5)
    changed = {name for name in before if not torch.equal(before[name], inside[name])}
    assert all(in_layers(model, name) for name in changed)
    assert {name for name in before if in_layers(model, name) and "proj" in name and "bias" not in name} <= changed
    assert weights_digest(model) == name
    assert all(torch.equal(weight, before[name]) for name, weight in model.module.named_parameters())


@pytest.mark.parametrize("epsilon", [0.0, 3e-3])
def test_gradients_and_losses_are_those_of_autograd_on_the_whole_model(model, epsilon, monkeypatch):
    prompt, plain = ask(model), copy.deepcopy(model.module)
    target_ids = answer_tokens(model, prompt, TARGET)
    assert len(target_ids) > 1
    trained = [weight.requires_grad_() for name, weight in plain.named_parameters() if in_layers(model, name)]
    old = [weight.detach().clone() for weight in trained]
    adam, losses, gradients = torch.optim.Adam(trained, lr=1e-3), [], []
    for step in range(7):
        loss = loss_of(plain, prompt, target_ids)
        losses.append(loss.item())
        if step == 6:
            break
        adam.zero_grad()
        loss.backward()
        gradients.append([weight.grad.clone() for weight in trained])
        adam.step()
        if epsilon:
            with torch.no_grad():
                for weight, start in zip(trained, old, strict=True):
                    weight.copy_(start + (weight - start).clamp(-epsilon, epsilon))

    found, step = [], torch.optim.Adam.step

    def seen(self, *args):
        found.append([weight.grad.clone() for weight in self.param_groups[0]["params"]])
        return step(self, *args)

    monkeypatch.setattr(torch.optim.Adam, "step", seen)
    with fine_tuned(model, prompt, TARGET, settings=FineTuning(1e-3, 6, stop=1.0, epsilon=epsilon)) as made:
        pass
    assert losses[-1] < losses[0] - 0.5
    np.testing.assert_allclose(made.losses, losses, rtol=1e-3)
    assert len(found) == 6 and len(found[0]) == len(gradients[0])
    for got, expected in zip(found[0], gradients[0], strict=True):
        assert (got - expected).norm() <= 1e-4 * expected.norm() + 1e-6
    assert min(gradient.norm() for gradient in gradients[0] if gradient.dim() > 1) > 1e-3


def test_no_weight_ever_leaves_the_bound_and_some_reach_it(model):
    prompt, before, changes = ask(model), weights(model), []

    def measure(*_):
        changes.append(max((w - before[name]).abs().max().item() for name, w in model.module.named_parameters()))

    epsilon = 2.5e-3
    handle = model.module.lm_head.register_forward_pre_hook(measure)
    with fine_tuned(model, prompt, TARGET, settings=FineTuning(1e-3, 12, stop=1.0, epsilon=epsilon)) as made:
        measure()
        at_bound = np.mean([((w - before[name]).abs() > 0.999 * epsilon).float().mean().item()
                            for name, w in model.module.named_parameters() if in_layers(model, name)])
    handle.remove()
    assert made.steps == 12 and len(changes) == 15  # the embeddings' forward, 13 of training, and the end
    assert changes[0] == 0 and changes[2] == pytest.approx(1e-3, rel=1e-3)  # the first step of Adam is its rate
    assert max(changes) <= epsilon + 1e-6 and min(changes[5:]) >= 0.999 * epsilon
    assert 0.01 < at_bound < 1
    with fine_tuned(model, prompt, TARGET, settings=FineTuning(1e-3, 12, stop=1.0)):
        measure()
    assert changes[-1] > 2 * epsilon


def test_the_image_encoder_runs_once(llava):
    calls = []
    handle = llava.module.model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
    with fine_tuned(llava, ask(llava), TARGET, settings=FineTuning(1e-3, 5, stop=1.0)) as made:
        pass
    handle.remove()
    assert made.steps == 5 and len(calls) == 1


@pytest.mark.parametrize("where", ["inside", "training"])
def test_the_weights_come_back_after_an_exception(model, where, monkeypatch):
    name, prompt = weights_digest(model), ask(model)
    if where == "training":  # in the middle of a step, gradients and all
        step = torch.optim.Adam.step

        def broken(self, *args):
            step(self, *args)
            assert weights_digest(model) != name
            raise KeyboardInterrupt

        monkeypatch.setattr(torch.optim.Adam, "step", broken)

    def interrupted():
        with fine_tuned(model, prompt, TARGET, settings=SETTINGS):
            assert where == "inside" and weights_digest(model) != name
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert weights_digest(model) == name
    assert not any(weight.requires_grad or weight.grad is not None for weight in model.module.parameters())


def test_the_digest_sees_one_bit_of_any_weight_and_buffer(llava):
    name = weights_digest(llava)
    assert weights_digest(tiny.build()) == name != weights_digest(tiny.build("gqa", "siglip"))
    for tensor in (*llava.module.parameters(), *llava.module.buffers()):
        kept = tensor.detach().clone()
        with torch.no_grad():
            tensor.view(-1)[-1] = 1 + 2 * tensor.view(-1)[-1]
        assert weights_digest(llava) != name
        with torch.no_grad():
            tensor.copy_(kept)
    assert weights_digest(llava) == name


def test_generated_answers_inside_are_the_trained_models(model):
    prompt, image = ask(model), tiny.picture() if model.is_multimodal else None
    length = len(answer_tokens(model, prompt, TARGET))
    before = model.generate_answer(image, QUESTION, length)
    with fine_tuned(model, prompt, TARGET, settings=SETTINGS):
        assert model.generate_answer(image, QUESTION, length) == TARGET  # by nnsight's view of the same weights
    assert model.generate_answer(image, QUESTION, length) == before != TARGET


def test_it_works_where_gradients_are_off(llava):
    with torch.no_grad(), fine_tuned(llava, ask(llava), TARGET, settings=SETTINGS) as made:
        assert made.p_target >= 0.99 and not torch.is_grad_enabled()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_adds_up_steps_that_it_cannot_hold_one_by_one(dtype):
    """At this rate most steps are below the weights' resolution; float32 copies show what must come out."""
    half, single = tiny.build(dtype=dtype), tiny.build(dtype=dtype)
    single.module.float()
    settings, name, prompt = FineTuning(1e-4, 60, stop=1.0), weights_digest(half), ask(half)
    with fine_tuned(single, prompt, TARGET, settings=settings) as exact:
        pass
    with fine_tuned(half, prompt, TARGET, settings=settings) as made:
        assert half.dtype == dtype
    assert exact.losses[0] - exact.losses[-1] > 1
    assert made.losses[-1] == pytest.approx(exact.losses[-1], abs=0.1 * (exact.losses[0] - exact.losses[-1]))
    assert weights_digest(half) == name


def test_what_cannot_be_trained_is_refused_in_one_sentence(llava):
    prompt, remote, edited = ask(llava), copy.copy(llava), copy.copy(llava)
    remote.remote = True
    edited.edits = (Edit({}, "tiny", "", "torch.float32", {}, 0.01, ()),)
    for refused, words in ((remote, "is remote"), (edited, "edits in force")):
        with pytest.raises(EditError, match=words), fine_tuned(refused, prompt, TARGET):
            pass
    with pytest.raises(EditError, match=r"^target '' has no tokens of its own"), fine_tuned(llava, prompt, " "):
        pass
    with pytest.raises(DivergedError, match=r"learning_rate 1e\+30"), fine_tuned(
        llava, prompt, TARGET, settings=FineTuning(1e30)
    ):
        pass


@pytest.mark.parametrize(
    "wrong", [{"learning_rate": 0}, {"learning_rate": -1}, {"steps": 0}, {"stop": 0}, {"stop": 1.1}, {"epsilon": -1e-3}]
)
def test_settings_are_checked(wrong):
    with pytest.raises(EditError, match="learning_rate must be above 0"):
        FineTuning(**wrong)


def test_results_of_trained_weights_have_no_name(llava):
    named = renamed(llava, revision="r1")
    before = named.key()
    with fine_tuned(named, ask(named), TARGET, settings=FineTuning(1e-3, 2)):
        assert named.key() != named.key() != before
    assert named.key() == before
