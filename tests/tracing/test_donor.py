"""A trace whose restored outputs come from another prompt's run, and that reads several answers, against hooks."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from hooked import Hooked, oracle
from tiny import QUESTION, ask

from interventions.engine.runs import own_answer
from interventions.engine.windows import Execution
from interventions.errors import TraceError
from interventions.prompts.corruption import corrupt, noise
from interventions.prompts.prompt import build_prompt, counterparts
from interventions.tracing import restoration
from interventions.tracing.causal_trace import Scoring, trace

KINDS = ("mlp", "attention", "hidden")
LOOSE = Scoring(require_top=False)


@pytest.fixture(
    scope="module", params=[(*key, attention) for key in tiny.SEEDS for attention in ("sdpa", "eager")], ids=str
)
def model(request):
    text, vision, attention = request.param
    return tiny.build(text, vision, attention)


def asked(model, question=QUESTION, constraint="this country", image=1):
    """Another prompt: another picture, where the model sees one, and maybe other words."""
    picture = tiny.picture(image) if model.is_multimodal else None
    if picture is not None and "tiles" in model.name:
        picture = picture.resize((90, 20))  # cut into other tiles: another number of visual tokens
    text = "B" if question.endswith("B") else None
    return build_prompt(model, question, picture, visual_constraint=constraint, text_constraint=text)


def check(model, prompt, corrupted, donor, sources, **options):
    """All methods equal hooks, for both answers."""
    chosen = (*prompt.visual[-1:], *prompt.constraint, prompt.last)
    answers = [own_answer(model, prompt, max_answer_tokens=2).ids, own_answer(model, donor, max_answer_tokens=3).ids]
    if answers[0][0] == answers[1][0]:
        answers[1] = (answers[1][0] + 1, *answers[1][1:])
    settings = {"positions": chosen, "donor": donor, "answers": answers, "scoring": LOOSE, "kinds": KINDS} | options
    ways = [Execution(), Execution(max_packed_tokens=7), Execution("rows"), Execution("plain")]
    results = [trace(model, prompt, corrupted, execution=way, **settings) for way in ways]
    for number, answer in enumerate(answers):
        found = [(result, *result.other_answers)[number] for result in results]
        with torch.no_grad():
            p_donor = Hooked(model, found[0]).probability(donor.input_ids, donor.image_inputs)
        p_clean, p_corrupted, restored = oracle(model, prompt, corrupted, found[0], donor, sources)
        for one in found:
            assert one.answer_ids == answer
            assert abs(one.p_clean - p_clean) < 1e-5
            assert abs(one.p_corrupted - p_corrupted) < 1e-5
            assert abs(one.p_donor - p_donor) < 1e-5
            np.testing.assert_allclose(one.restored, restored, rtol=0, atol=1e-5)
    return results[0]


def test_the_same_words_about_another_image(model):
    prompt = ask(model)
    if model.is_multimodal:
        donor, constraint = asked(model), prompt.constraint
    else:
        donor, constraint = asked(model, QUESTION.replace("this country", "New Zealand"), "New Zealand"), ()
    shift = len(donor) - len(prompt)
    assert bool(shift) == ("tiles" in model.name)
    sources = {position: position + shift for position in (*prompt.visual[-1:], *prompt.constraint, prompt.last)}
    result = check(model, prompt, corrupt(model, prompt, visual_replacement="Sri Lanka"), donor, sources)
    assert np.isfinite(result.restored).all()
    assert np.abs(result.effects).max() > 0.05
    assert [i for i in constraint if counterparts(prompt, donor)[i] != i + shift] == []


def test_other_words_and_other_lengths(model):
    """The constraint has one token where the prompt's has two, and other words precede it."""
    prompt = ask(model)
    donor = asked(model, "The building that borders Peru and starts with B", "Peru")
    first, last = prompt.constraint
    assert len(donor.constraint) == 1 and len(donor) != len(prompt)
    sources = {first: None, last: donor.constraint[0], prompt.last: donor.last}
    sources |= dict(zip(prompt.visual[-1:], donor.visual[-1:], strict=True))
    result = check(model, prompt, corrupt(model, prompt, visual_replacement="the big country of Lima"), donor, sources)
    place = result.positions.index(first)
    assert np.isnan(result.restored[:, place]).all()
    assert np.isfinite(np.delete(result.restored, place, axis=1)).all()


@pytest.mark.parametrize("corruption", ["replacement", "noise"])
def test_all_tokens_of_answers_of_other_lengths(model, corruption):
    """Their sweeps differ, because the model is fed other tokens."""
    prompt = ask(model)
    donor = asked(model, "Name a country that borders Peru and starts with B", "Peru")
    sources = dict.fromkeys(prompt.constraint[:-1]) | {prompt.constraint[-1]: donor.constraint[-1]}
    sources |= {prompt.last: donor.last} | dict(zip(prompt.visual[-1:], donor.visual[-1:], strict=True))
    corrupted = corrupt(model, prompt, visual_replacement="Sri Lanka")
    if corruption == "noise":
        corrupted = noise(model, prompt, "constraint", samples=2)
    scoring = replace(LOOSE, answer_score="sequence")
    check(model, prompt, corrupted, donor, sources, scoring=scoring, kinds=("hidden", "mlp"), window=2)


def test_the_prompt_itself_as_donor_changes_nothing(model):
    prompt = ask(model)
    corrupted = corrupt(model, prompt, visual_replacement="the big country of Lima")
    ordinary = trace(model, prompt, corrupted, kinds=KINDS)
    donated = trace(model, prompt, corrupted, kinds=KINDS, donor=ask(model))
    np.testing.assert_array_equal(donated.restored, ordinary.restored)
    assert (donated.p_clean, donated.p_corrupted) == (ordinary.p_clean, ordinary.p_corrupted)
    assert donated.p_donor == ordinary.p_clean and np.isnan(ordinary.p_donor)
    assert list(donated.to_frame()) == [*ordinary.to_frame(), "p_donor"]


def test_several_answers_are_those_of_single_traces(model):
    """Read in one sweep over the sites."""
    prompt = ask(model)
    corrupted = corrupt(model, prompt, visual_replacement="Sri Lanka")
    own = own_answer(model, prompt).ids
    answers = [own, [own[0] + 1], "Lima"]
    where = {"positions": prompt.constraint, "scoring": LOOSE}
    together = trace(model, prompt, corrupted, answers=answers, **where)
    for one, answer in zip((together, *together.other_answers), answers, strict=True):
        alone = trace(model, prompt, corrupted, answer=answer, **where)
        assert alone.answer_ids == one.answer_ids and alone.other_answers == ()
        assert (one.p_clean, one.p_corrupted) == (alone.p_clean, alone.p_corrupted)
        np.testing.assert_array_equal(one.restored, alone.restored)
    frame = together.to_frame()
    assert list(dict.fromkeys(frame["answer"])) == [one.answer_text for one in (together, *together.other_answers)]
    assert len(frame) == 3 * together.restored.size
    own_rows = frame[frame["answer"] == together.answer_text].drop(columns="answer")
    assert own_rows.equals(trace(model, prompt, corrupted, answer=own, **where).to_frame())


def test_serialized_as_for_a_server_it_gives_the_same_table(model):
    prompt = ask(model)
    donor = asked(model, "Name a country that borders Peru and starts with B", "Peru")
    corrupted = corrupt(model, prompt, visual_replacement="Sri Lanka")
    here, there = (
        trace(model, prompt, corrupted, donor=donor, answers=[[300], [301]], kinds=KINDS, positions=("constraint",),
              scoring=LOOSE, execution=Execution(remote=remote))
        for remote in (False, "local")
    )
    assert here.to_frame().equals(there.to_frame())


# What one tiny model shows


@pytest.fixture(scope="module")
def llama():
    return tiny.build()


def test_alike_answers_take_one_sweep(llama, monkeypatch):
    prompt = ask(llama)
    corrupted = corrupt(llama, prompt, visual_replacement="Sri Lanka")
    sweeps, restore_packed = [], restoration.restore_packed
    monkeypatch.setattr(
        restoration, "restore_packed", lambda *arguments: (sweeps.append(1), restore_packed(*arguments))[1]
    )
    for answers, scoring, expected in (
        ([[300, 5], [301]], LOOSE, 1),
        ([[300, 5], [301]], replace(LOOSE, answer_score="sequence"), 2),
        ([[300, 5], [300, 6]], replace(LOOSE, answer_score="sequence"), 1),
        ([[300], [llama.blank_ids[0], 301]], LOOSE, 2),
    ):
        sweeps.clear()
        trace(llama, prompt, corrupted, answers=answers, scoring=scoring, positions=("last",))
        assert len(sweeps) == expected


def test_an_answer_behind_a_blank_token_is_read_behind_it(llama):
    prompt = ask(llama)
    corrupted = corrupt(llama, prompt, visual_replacement="Sri Lanka")
    space = next(token for token in llama.blank_ids if llama.tokenizer.decode([token]) == " ")
    for answers in ([[space, 301], [300]], [[300], [space, 301]]):
        result = trace(llama, prompt, corrupted, answers=answers, positions=("constraint",), scoring=LOOSE)
        for one in (result, *result.other_answers):
            _, p_corrupted, restored = oracle(llama, prompt, corrupted, one)
            assert abs(one.p_corrupted - p_corrupted) < 1e-5
            np.testing.assert_allclose(one.restored, restored, rtol=0, atol=1e-5)


def test_an_unsure_answer_leaves_all_of_them_unknown(llama):
    prompt = ask(llama)
    corrupted = corrupt(llama, prompt, visual_replacement="Sri Lanka")
    scoring = replace(LOOSE, min_p_clean=0.9999)
    result = trace(llama, prompt, corrupted, answers=["Lima", "Peru"], scoring=scoring)
    assert [one.answer_text for one in (result, *result.other_answers)] == ["Lima", "Peru"]
    for one in (result, *result.other_answers):
        assert np.isnan(one.restored).all() and np.isnan(one.p_corrupted)


def test_visual_tokens_of_a_donor_are_restored_before_the_first_corrupted_token(llama):
    prompt, donor = ask(llama), asked(llama)
    corrupted = corrupt(llama, prompt, visual_replacement="Sri Lanka")
    named = build_prompt(
        llama, QUESTION.replace("this country", "Sri Lanka"), tiny.picture(), visual_constraint="Sri Lanka"
    )
    theirs = own_answer(llama, named, max_answer_tokens=1)
    settings = {"positions": ("visual",), "kinds": KINDS, "answer": theirs.ids, "scoring": LOOSE}
    result = trace(llama, prompt, corrupted, donor=donor, **settings)
    assert result.p_corrupted == pytest.approx(theirs.p, abs=1e-5) and theirs.p > 0.1
    assert np.abs(result.effects).max() > 0.01
    _, _, restored = oracle(llama, prompt, corrupted, result, donor, dict(enumerate(range(len(prompt)))))
    np.testing.assert_allclose(result.restored, restored, rtol=0, atol=1e-5)
    assert (trace(llama, prompt, corrupted, **settings).effects == 0).all()


def test_counterparts(llama):
    """Words that both prompts begin and end with, phrases from the right, nothing in between."""
    one = build_prompt(llama, "The capital of this country is", tiny.picture(), visual_constraint="this country")
    two = build_prompt(llama, "The big city of Sri Lanka, New Zealand is", tiny.picture(1),
                       visual_constraint="Sri Lanka, New Zealand")
    found = counterparts(one, two)
    for position, match in enumerate(found):
        if match is not None and position not in one.constraint:
            assert one.tokens[position] == two.tokens[match]
    assert [found[position] for position in one.constraint] == list(two.constraint[-len(one.constraint):])
    words = [position for position, token in enumerate(one.tokens) if token.strip() in ("capital", "of")]
    assert found[words[0]] is None and two.tokens[found[words[-1]]] == " of"
    assert [found[position] for position in one.visual] == list(two.visual)
    assert found[one.last] == two.last
    assert counterparts(one, one) == tuple(range(len(one)))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (dict(answers=["Lima"], answer="Lima"), "answers takes the place of answer"),
        (dict(answers=["Lima"], scoring=Scoring(accepted="Lima")), "answers takes the place of answer"),
        (dict(answers=[]), "answers must be texts or lists of token ids"),
        (dict(answers=["Lima", None]), "answers must be texts or lists of token ids"),
        (dict(answers=["Lima", [99999]], scoring=LOOSE), "answer must be token ids"),
        (dict(kinds="layer"), "kinds is unknown: 'layer'; use 'mlp', 'attention', 'hidden'"),
        (dict(donor=True, positions=(8,)), "donor has no counterpart of any token"),
    ],
)
def test_mistakes_end_in_a_sentence(llama, options, sentence):
    prompt = ask(llama)
    if "donor" in options:
        options |= {"donor": build_prompt(llama, "Peru", visual_constraint="Peru")}
    with pytest.raises(TraceError, match=sentence) as error:
        trace(llama, prompt, corrupt(llama, prompt, visual_replacement="Sri Lanka"), **options)
    assert str(error.value).count("\n") == 0 and str(error.value).endswith(".")


def test_a_donor_in_another_order_is_refused(llama):
    prompt = ask(llama)
    donor = build_prompt(llama, "B starts with what borders this country", tiny.picture(),
                         visual_constraint="this country", text_constraint="B")
    with pytest.raises(TraceError, match="in another order"):
        trace(llama, prompt, corrupt(llama, prompt, visual_replacement="Sri Lanka"), donor=donor)
