"""What an edit does is measured on the edited model, and one forward gives the same as generating every answer."""

from dataclasses import replace

import nnsight
import numpy as np
import pytest
import tiny
import torch
from answering import questions, speaking

import interventions.editing.evaluation as module
from interventions.editing.edit import apply_edits
from interventions.editing.evaluation import (
    answer_questions,
    evaluate,
    questions_about,
    reference,
    sample_unrelated,
    sent_once,
)
from interventions.editing.multedit import edit_facts
from interventions.editing.optimized_value import Optimizer
from interventions.errors import EditError, Unusable
from interventions.remote.jobs import Job
from interventions.studies.conditions import Conditions, clean_prompt


@pytest.fixture(scope="module")
def model():
    return speaking(tiny.build())


@pytest.fixture(scope="module")
def items(model, tmp_path_factory):
    found = questions(model, tmp_path_factory.mktemp("bed"), n=8, parts=("known",))
    return [replace(item, entity=f"Entity {n}") for n, item in enumerate(found)]


@pytest.fixture(scope="module")
def edited(model, items):
    """The model with a strong edit: the first question is now answered by what another one is."""
    prompt = clean_prompt(model, items[0], Conditions())
    target = next(item.answers[0] for item in items if item.answers[0] != items[0].answers[0])
    edit = edit_facts(model, [(prompt, target)], layers=[1], optimizer=Optimizer(steps=60))
    return apply_edits(model, [edit]), target


@torch.no_grad()
def whole(model, item):
    """Log-probabilities [V] of the next token, one plain traced forward of the model as it is."""
    prompt = clean_prompt(model, item, Conditions())
    with model.traced.trace(input_ids=prompt.input_ids[None], **prompt.image_inputs):
        logits = model.traced.lm_head.output.save()
    return logits[0, -1].float().log_softmax(-1), prompt


def first_word(model, item) -> str:
    """All that a speaking model says."""
    return model.tokenizer.decode([whole(model, item)[0].argmax()]).strip()


def test_every_number_is_that_of_the_edited_model(model, items, edited):
    changed, target = edited
    asked = questions_about(model, items[0], items)
    others = [reference(model, item) for item in items[1:]]
    found = evaluate(changed, target, asked, others)
    token = module.answer_tokens(model, asked["target"][0], target)
    assert len(token) == 1
    log_p, _ = whole(changed, items[0])
    assert found["p_target"] == pytest.approx(log_p[token[0]].exp().item(), abs=1e-5)
    before = evaluate(model, target, asked, others)
    assert found["p_target"] > before["p_target"] + 0.1
    paraphrases = [whole(changed, replace(items[0], question=text, paraphrases=()))[0][token[0]].exp().item()
                   for text in items[0].paraphrases]
    assert found["p_paraphrase"] == pytest.approx(np.mean(paraphrases), abs=1e-5)
    assert found["n_paraphrase"] == len(paraphrases) == 1
    divergence = [
        (one.log_p.exp() * (one.log_p - whole(changed, one.item)[0])).sum().item() for one in others
    ]
    assert found["kl"] == pytest.approx(np.mean(divergence), abs=1e-5) and found["kl"] > 1e-3
    assert before["kl"] == pytest.approx(0, abs=1e-6)
    said = [first_word(changed, one.item) for one in others]
    right = [answer == one.item.answers[0] for answer, one in zip(said, others, strict=True)]
    assert found["accuracy_after"] == pytest.approx(np.mean(right))
    assert found["accuracy_before"] == before["accuracy_after"] == 1
    assert found["after"] == first_word(changed, items[0])
    assert found["exact"] == (found["after"] == target)
    assert found["n_unrelated"] == len(others)


def test_only_changed_answers_are_generated_anew(model, items, edited, monkeypatch):
    others, decoded, plain = [reference(model, item) for item in items[1:]], [], module.decode
    monkeypatch.setattr(module, "decode", lambda *given: decoded.append(1) or plain(*given))
    asked = questions_about(model, items[0], items)
    evaluate(model, items[0].answers[0], {"target": asked["target"]}, others)
    assert decoded == []  # nothing has changed
    evaluate(model, edited[1], {"target": asked["target"]}, others)
    assert decoded == [1]


def test_a_question_comes_with_others_that_should_have_its_answer(model, items):
    same = replace(items[1], id="other", entity=items[0].entity, relation="name")
    building = replace(items[2], entity="A tower", relation="country", answers=(items[0].entity,))
    two_steps = replace(items[3], entity="A tower", relation="pcapital")
    item = replace(items[0], relation="capital")
    asked = questions_about(model, item, [item, same, building, two_steps, *items[4:]])
    assert {name: len(prompts) for name, prompts in asked.items()} == {
        "target": 1, "paraphrase": 1, "pictures": 1, "following": 2,
    }
    one, other = asked["pictures"][0], clean_prompt(model, same, Conditions())
    assert torch.equal(one.image_inputs["pixel_values"], other.image_inputs["pixel_values"])
    named, other = asked["following"]
    assert item.entity in named.question and not named.image_inputs
    assert torch.equal(other.input_ids, clean_prompt(model, two_steps, Conditions()).input_ids)
    with pytest.raises(Unusable):
        questions_about(model, replace(item, image=item.image.with_name("no.png")), [])


def test_unrelated_questions_share_neither_entity_nor_answer(model, items):
    pool = [reference(model, item) for item in items]
    pool.append(replace(pool[1], item=replace(pool[1].item, id="same answer", answers=items[0].answers)))
    pool.append(replace(pool[1], item=replace(pool[1].item, id="same entity", entity=items[0].entity)))
    chosen = sample_unrelated(items[0], pool, 100)
    names = {one.item.id for one in chosen}
    assert not names & {items[0].id, "same answer", "same entity"}
    assert all(not set(one.item.answers) & set(items[0].answers) for one in chosen)
    few = sample_unrelated(items[0], pool, 2)
    assert [one.item.id for one in few] == [one.item.id for one in sample_unrelated(items[0], pool[::-1], 2)]
    assert len(few) == 2


def test_a_target_without_tokens_is_said_in_a_sentence(model, items):
    with pytest.raises(EditError, match=r"^target '' has no tokens of its own"):
        evaluate(model, " ", questions_about(model, items[0], []), [])


def test_serialised_as_for_a_server_it_gives_the_same(model, items):
    asked, others = questions_about(model, items[0], items), [reference(model, item) for item in items[1:3]]
    here, there = (evaluate(model, "Lima", asked, others, remote=remote) for remote in (False, "local"))
    assert here == pytest.approx(there, nan_ok=True)


def test_a_picture_travels_once(model, items):
    """However many questions of a request see it: the packed request hardly grows."""
    prompts = [clean_prompt(model, replace(items[0], question=f"{items[0].question} ({i})"), Conditions())
               for i in range(6)]
    for prompt in prompts:  # of a size that counts, and that no packing shrinks
        prompt.image_inputs["pixel_values"] = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    other = replace(prompts[0], image_inputs={"pixel_values": torch.rand(1, 3, 64, 64)})
    images = sent_once([*prompts, other])
    assert len({id(image) for image in images}) == 2 and images[-1] is other.image_inputs

    def size(images) -> int:
        lm, job, request = model.traced, Job(""), {"questions": images}
        with lm.session(backend=job):
            nnsight.save(answer_questions(lm, request))
        return len(job.payload)

    nnsight.register("interventions")
    picture = 3 * 64 * 64 * 4
    assert size(images[:1]) > picture * 0.8
    assert size(images[:6]) - size(images[:1]) < picture / 10
    assert size(images) - size(images[:6]) > picture * 0.8
