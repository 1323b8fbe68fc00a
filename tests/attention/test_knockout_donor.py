"""Flows that the last token reads from a donor's run, against an attention function that is written by hand."""

import numpy as np
import planted
import pytest
import tiny
import torch
from tiny import QUESTION, ask
from transformers import AttentionInterface, AttentionMaskInterface

from interventions import attention_knockout
from interventions.attention.knockout import flow_edges
from interventions.engine.runs import own_answer
from interventions.engine.windows import Execution, window_spans
from interventions.errors import AttentionError
from interventions.prompts.prompt import build_prompt

FLOWS = {"both -> last": (("visual", "constraint"), "last"), "constraint -> last": ("constraint", "last")}
WORDS = {"words -> last": (("constraint", "text_constraint", "other"), "last")}  # of a model that sees no image


@pytest.fixture(scope="module", params=[(*key, way) for key in tiny.SEEDS for way in ("sdpa", "eager")], ids=str)
def model(request):
    return tiny.build(*request.param)


def other_prompt(model):
    """The same words about another picture, or one other word of as many tokens."""
    if model.is_multimodal:
        return build_prompt(model, QUESTION, tiny.picture(1), visual_constraint="this country", text_constraint="B")
    return build_prompt(
        model, QUESTION.replace("this country", "that country"), visual_constraint="that country", text_constraint="B"
    )


class ByHand:
    """Whole forwards in which the last tokens, in some layers, read the keys and values that another run had."""

    def __init__(self, model, patch):
        self.model, self.recorded = model, {}
        self.decoder = model.module.get_submodule(model.family.language_model)
        AttentionInterface.register("by_hand", self.attend)
        AttentionMaskInterface.register("by_hand", lambda *_, **__: None)
        for module in model.module.modules():
            if getattr(module, "layer_idx", None) is not None:
                patch.setattr(module, "config", patched(module.config))
        patch.setattr(self.decoder, "config", patched(self.decoder.config))

    def attend(self, module, query, key, value, attention_mask, scaling, **_):
        layer, groups = module.layer_idx, query.shape[1] // key.shape[1]
        self.recorded[layer] = key, value
        output = attention(query, key, value, scaling, groups)
        if layer in self.layers:
            theirs, n = self.donor[layer], self.last
            key, value = key.clone(), value.clone()
            key[:, :, self.sources] = theirs[0][:, :, self.sources]
            value[:, :, self.sources] = theirs[1][:, :, self.sources]
            output = torch.cat([output[:, :n], attention(query, key, value, scaling, groups)[:, n:]], dim=1)
        return output, None

    @torch.no_grad()
    def probabilities(self, prompt, given=(), layers=(), sources=(), donor=None):
        """Probabilities behind prompt and given tokens."""
        self.layers, self.sources, self.donor, self.last = layers, list(sources), donor, prompt.last
        ids = torch.cat([prompt.input_ids, torch.tensor(given, dtype=torch.long)])
        return self.model.module(input_ids=ids[None], **prompt.image_inputs).logits[0, -1].softmax(-1)


def patched(config):
    copy = type(config)(**config.to_dict())
    copy._attn_implementation = "by_hand"
    return copy


def attention(query, key, value, scaling, groups):
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * scaling
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return (scores.masked_fill(future, -torch.inf).softmax(-1) @ value).transpose(1, 2)


def by_hand(model, prompt, donor, tokens, given, flows, window):
    """{token: P [flows, windows and all layers]}, and by token P of the clean and of the donor's run."""
    with pytest.MonkeyPatch.context() as patch:
        run = ByHand(model, patch)
        clean = run.probabilities(prompt, given)
        theirs = run.probabilities(donor, given)
        donor_cache = dict(run.recorded)
        spans = [*window_spans(window, "centered", model.n_layers), (0, model.n_layers)]
        found = torch.stack([
            torch.stack([run.probabilities(prompt, given, range(*span), sources, donor_cache) for span in spans])
            for _, sources in flow_edges(prompt, flows).values()
        ])
    return [(clean[token].item(), theirs[token].item(), found[..., token].numpy()) for token in tokens]


def check(found, expected):
    for one, (p_clean, p_donor, transplanted) in zip((found, *found.other_answers), expected, strict=True):
        assert (one.p_clean, one.p_donor) == pytest.approx((p_clean, p_donor), abs=1e-5)
        np.testing.assert_allclose(one.p_transplanted, transplanted[:, :-1], rtol=0, atol=1e-5)
        np.testing.assert_allclose(one.p_all_transplanted, transplanted[:, -1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("window", [1, 3])
def test_it_equals_attention_by_hand(model, window):
    prompt, donor = ask(model), other_prompt(model)
    flows = FLOWS if model.is_multimodal else WORDS
    answers = [own_answer(model, one, max_answer_tokens=1).ids for one in (prompt, donor)]
    tokens = [ids[0] for ids in answers]
    expected = by_hand(model, prompt, donor, tokens, (), flows, window)
    options = {"flows": flows, "answers": answers, "donor": donor, "window": window}
    for execution in (Execution(), Execution(max_packed_tokens=1), Execution("rows"), Execution(remote="local")):
        check(attention_knockout(model, prompt, execution=execution, **options), expected)
    moved = np.abs(expected[0][2] - expected[0][0]).max()
    assert moved > 0.02


def test_an_answer_behind_a_blank_token_is_read_behind_it():
    model = tiny.build()
    prompt, donor, space = ask(model), other_prompt(model), model.blank_ids[0]
    found = attention_knockout(model, prompt, flows=FLOWS, answers=[[space, 301], [space, 302]], donor=donor, window=2)
    check(found, by_hand(model, prompt, donor, [301, 302], [space], FLOWS, 2))


def test_the_own_run_as_donor_changes_nothing(model):
    prompt = ask(model)
    found = attention_knockout(model, prompt, donor=prompt)
    assert found.p_donor == pytest.approx(found.p_clean, abs=1e-5)
    for p in (found.p_transplanted, found.p_all_transplanted):
        np.testing.assert_allclose(p, np.full_like(p, found.p_clean), rtol=0, atol=1e-5)
    assert found.flows == (("visual -> last",) if model.is_multimodal else ()) + ("constraint -> last",)


def test_blocked_are_the_same_flows_as_without_a_donor(model):
    prompt = ask(model)
    options = {"flows": FLOWS if model.is_multimodal else WORDS, "window": 2}
    alone = attention_knockout(model, prompt, answer="Lima", **options)
    found = attention_knockout(model, prompt, answers=["Peru", "Lima"], donor=other_prompt(model), **options)
    [lima] = found.other_answers
    np.testing.assert_allclose(lima.p_blocked, alone.p_blocked, rtol=0, atol=1e-6)
    np.testing.assert_allclose(lima.p_all_blocked, alone.p_all_blocked, rtol=0, atol=1e-6)
    frame = found.to_frame()
    assert list(dict.fromkeys(frame["answer"])) == ["Peru", "Lima"]
    assert {"p_transplanted", "p_donor"} <= {*frame} and not {"p_transplanted", "p_donor"} & {*alone.to_frame()}
    rows = frame[frame["answer"] == "Lima"].reset_index(drop=True)
    np.testing.assert_allclose(rows["p_blocked"], alone.to_frame()["p_blocked"], rtol=0, atol=1e-6)
    whole = rows.loc[(rows["window"] == model.n_layers), "p_transplanted"].to_numpy()
    np.testing.assert_array_equal(whole, lima.p_all_transplanted)


@pytest.mark.parametrize(
    ("options", "at_constraint", "at_image"),
    [({"read": 1, "lookup": 2}, 1, 0), ({"read": 2, "lookup": 3, "reader": "ASSISTANT:"}, 0, 1)],
)
def test_it_tells_the_planted_routes_apart(options, at_constraint, at_image):
    """The last token reads the answer at the constraint, or it reads the image."""
    model = planted.build(**options)
    prompt, donor = (
        build_prompt(model, planted.QUESTIONS[1], planted.flag(country), visual_constraint="this country")
        for country in ("Peru", "Japan")
    )
    found = attention_knockout(model, prompt, donor=donor, answers=["Lima", "Tokyo"], window=1)
    own, other = (dict(zip(one.flows, one.p_all_transplanted, strict=True)) for one in (found, *found.other_answers))
    for flow, expected in (("constraint -> last", at_constraint), ("visual -> last", at_image)):
        assert other[flow] == pytest.approx(expected, abs=1e-3)
        assert own[flow] == pytest.approx(1 - expected, abs=1e-3)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"flows": {"x": ("visual", "constraint")}}, "flow 'x' has other targets than the last token"),
        ({"flows": {"x": ("constraint", ("text_constraint", "last"))}}, "flow 'x' has other targets"),
        ({"donor": "Name a country that borders that big country and starts with B"}, "donor has no token at position"),
        ({"answers": []}, "answers takes the place of answer"),
        ({"answers": ["Lima"], "answer": "Lima"}, "answers takes the place of answer"),
        ({"answers": ["Lima", [99999]]}, "answer must be token ids"),
        ({"answers": [[]]}, "answer holds no token"),
    ],
)
def test_mistakes_end_in_a_sentence(options, sentence):
    model = tiny.build()
    question = options.pop("donor", QUESTION)
    phrase = "that big country" if "that big" in question else "this country"
    donor = build_prompt(model, question, tiny.picture(1), visual_constraint=phrase, text_constraint="B")
    with pytest.raises(AttentionError, match=sentence) as error:
        attention_knockout(model, ask(model), donor=donor, **options)
    assert str(error.value).count("\n") == 0 and str(error.value).endswith(".")


def test_an_image_of_other_tiles_is_refused():
    model = tiny.build("llama", "tiles")
    donor = build_prompt(
        model, QUESTION, tiny.picture(1).resize((90, 20)), visual_constraint="this country", text_constraint="B"
    )
    with pytest.raises(AttentionError, match="donor has no token at position"):
        attention_knockout(model, ask(model), donor=donor)
