"""From an item to its clean and corrupted prompt under every condition, and how the two protocols differ."""

import unicodedata
from dataclasses import asdict, replace

import planted
import pytest
import tiny
import torch
from answering import MULTI, SINGLE

from interventions.engine.windows import Execution, window_spans
from interventions.errors import Unusable
from interventions.studies.conditions import CORRUPTIONS, Conditions, clean_prompt, corrupted_prompt, named
from interventions.studies.loop import RunOptions
from interventions.testbed import Item
from interventions.tracing.causal_trace import trace
from interventions.tracing.study import trace_study

PAPER, AUTHORS = Conditions("paper"), Conditions("authors")


@pytest.fixture(scope="module")
def model():
    return tiny.build()


@pytest.fixture(scope="module")
def text_model():
    return tiny.build("gqa", None)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "0.png"
    tiny.picture().save(path)
    return path


@pytest.fixture(scope="module")
def single(image):
    return Item(id="s", part="known", image=image, answers=("Lima",), entity="Peru", **SINGLE)


@pytest.fixture(scope="module")
def multi(image):
    return Item(id="m", part="okvqa", image=image, answers=("Brazil",), entity="Peru", **MULTI)


def changed(clean, corrupted) -> list[int]:
    """Positions whose token differs (the lengths must agree)."""
    return (clean.input_ids != corrupted.input_ids).nonzero().ravel().tolist()


def both(model, item, conditions=PAPER, **fields):
    conditions = replace(conditions, **fields)
    prompt = clean_prompt(model, item, conditions)
    return prompt, corrupted_prompt(model, item, prompt, conditions)


# The two protocols


def test_the_presets():
    noise = {"noise_scale": 3.0, "noise_samples": 10, "noise_seed": 0}
    assert asdict(Conditions()) == asdict(PAPER) == {
        "protocol": "paper", "window_rule": "centered", "corruption": "replacement", "corrupted": "text",
    } | noise
    assert asdict(AUTHORS) == {
        "protocol": "authors", "window_rule": "radius", "corruption": "repeat", "corrupted": "visual",
    } | noise


@pytest.mark.parametrize("protocol", ["paper", "authors"])
@pytest.mark.parametrize(("name", "values"), [
    ("window_rule", ("centered", "radius")), ("corruption", CORRUPTIONS), ("corrupted", ("visual", "text", "both")),
])
def test_every_preset_can_be_overruled(protocol, name, values):
    preset = asdict(Conditions(protocol))
    for value in values:
        assert asdict(Conditions(protocol, **{name: value})) == preset | {name: value}


def test_difference_prompt_format(model, single):
    text, asked = single.question, replace(single, question=f"{single.question}?")
    assert clean_prompt(model, single, PAPER).text == f"USER: <image>\n{text} ASSISTANT:"
    for item in (single, asked):  # one question mark, whether the question brings its own or not
        expected = f"<image>\nUSER: {text}? Answer in a few words.\nASSISTANT:"
        assert clean_prompt(model, item, AUTHORS).text == expected


def test_difference_corruption(model, single):
    prompt, corrupted = both(model, single, PAPER)
    assert corrupted.text == prompt.text.replace("this country", "Sri Lanka")
    # One and the same token over the whole constraint, "Paris" as it stands behind a space, so lengths agree.
    prompt, corrupted = both(model, single, AUTHORS)
    assert len(prompt.constraint) == 2
    assert changed(prompt, corrupted) == list(prompt.constraint)
    assert {corrupted.tokens[i] for i in prompt.constraint} == {" Paris"}
    assert corrupted.alignment == tuple(range(len(prompt)))


def test_difference_window():
    for window in (2, 3):
        widths = {
            conditions.protocol: [stop - start for start, stop in window_spans(window, conditions.window_rule, 32)]
            for conditions in (PAPER, AUTHORS)
        }
        assert widths["paper"][16] == window
        assert widths["authors"][16] == 2 * window + 1
        assert widths["authors"][0] == window + 1  # clipped
    assert window_spans(1, AUTHORS.window_rule, 32) == window_spans(1, PAPER.window_rule, 32)  # one layer in both


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """The same questions of the planted model under both protocols."""
    directory = tmp_path_factory.mktemp("flags")
    items = planted.items(directory)[:4]
    return {protocol: trace_study(planted.build(), items, window=1, conditions=Conditions(protocol),
                                  run=RunOptions(results_dir=directory)) for protocol in ("paper", "authors")}


def test_difference_positions(studies, tmp_path):
    """From the last visual token on, in both: what the paper shows before it is exactly 0 and needs no run."""
    for study in studies.values():
        first = study.sites.sort_values("position").groupby("id", observed=True).first()
        assert set(first["role"]) == {"visual"}
        visual = study.sites[study.sites["role"] == "visual"]
        assert (visual.groupby("id", observed=True)["position"].nunique() == 1).all()
    model = planted.build()
    prompt, corrupted = both(model, planted.items(tmp_path)[0])
    everywhere = trace(model, prompt, replace(corrupted, first_corrupted=0), positions=range(len(prompt)))
    before = everywhere.effects[:, : corrupted.first_corrupted]
    assert before.shape[1] > len(prompt.visual)
    assert abs(before).max() < 1e-5 < abs(everywhere.effects).max()


def test_difference_reported_value(studies):
    assert studies["paper"].reported == "effect"
    assert studies["authors"].reported == "p_restored"
    for study in studies.values():  # a column of that name is there, and differs by P(corrupted)
        p_corrupted = study.sites["id"].astype(str).map(study.questions.set_index("id")["p_corrupted"])
        difference = study.sites["p_restored"] - study.sites["effect"]
        assert difference.sub(p_corrupted).abs().max() < 1e-6


def test_same_in_both_the_answers_probability(studies):
    """That of the clean run's top token, the answer's first."""
    model = planted.build()
    for study in studies.values():
        for row in study.questions.itertuples():
            assert model.tokenizer.decode(row.answer_ids) == row.answer == planted.COUNTRIES[row.entity][0]
            assert row.p_clean > 0.9


# Values


@pytest.mark.parametrize("field", [
    {"protocol": "author"}, {"protocol": ""}, {"window_rule": "centred"}, {"corruption": "noisy"},
    {"corrupted": "textual"},
])
def test_invalid_values_are_refused_in_one_sentence(field):
    with pytest.raises(ValueError, match="cannot be") as error:
        Conditions(**field)
    [(name, value)] = field.items()
    text = str(error.value)
    assert text.startswith(f"{name} cannot be {value!r}: use '")
    assert "\n" not in text
    assert text.endswith(".")


@pytest.mark.parametrize("field", [{"noise_scale": 0.0}, {"noise_scale": -1.0}, {"noise_samples": 0}])
def test_impossible_noise_is_refused_in_one_sentence(field):
    with pytest.raises(ValueError, match=r"^noise_scale must be above 0 and noise_samples at least 1, not .*\.$"):
        Conditions(corruption="noise", **field)


def test_the_key_holds_what_matters_and_no_more():
    keys = [Conditions(**fields).key() for fields in (
        {}, {"protocol": "authors"}, {"window_rule": "radius"}, {"corruption": "repeat"}, {"corruption": "noise"},
        {"corruption": "standard"}, {"corrupted": "visual"}, {"corrupted": "both"},
        {"corruption": "noise", "noise_scale": 2.0}, {"corruption": "noise", "noise_samples": 3},
        {"corruption": "noise", "noise_seed": 1}, {"corruption": "standard", "noise_seed": 1},
    )]
    assert all(keys.count(key) == 1 for key in keys)
    # Without noise, its settings determine nothing: results are shared.
    assert Conditions(noise_scale=2.0, noise_samples=3, noise_seed=5).key() == Conditions().key()
    assert not any(name.startswith("noise") for name in Conditions().key() | AUTHORS.key())
    # A preset written out is the same as the empty text.
    assert Conditions(window_rule="centered", corruption="replacement", corrupted="text").key() == Conditions().key()
    assert AUTHORS.key()["repeat_token"] == "Paris"
    assert "repeat_token" not in Conditions().key()


# A question without its image


def test_named_puts_the_entity_where_the_constraint_was(single):
    text_only = named(single)
    assert text_only.question == "The capital of Peru is"
    assert text_only.visual_constraint == "Peru"
    assert text_only.image is None
    assert text_only.paraphrases == ()
    assert (text_only.id, text_only.answers, text_only.visual_replacement) == ("s", ("Lima",), "Sri Lanka")


def test_named_replaces_the_first_mention_only(single):
    twice = replace(single, question="Is this country as old as this country is said to be", paraphrases=())
    assert named(twice).question == "Is Peru as old as this country is said to be"


def test_named_keeps_the_text_constraint(multi):
    assert named(multi).question == "Name a country that borders Peru and starts with B"
    assert named(multi).text_constraint == "B"


def test_named_needs_a_name(single):
    with pytest.raises(Unusable, match="entity not named"):
        named(replace(single, entity=""))


def test_a_text_only_model_is_asked_by_name(text_model, single):
    prompt, corrupted = both(text_model, single)
    assert not prompt.image_inputs
    assert "".join(prompt.tokens[i] for i in prompt.constraint).strip() == "Peru"
    assert corrupted.text == prompt.text.replace("Peru", "Sri Lanka")


# Corruptions


def test_noise_touches_the_constraint_alone_and_standard_the_visual_tokens_too(model, single):
    prompt, corrupted = both(model, single, corruption="noise")
    assert corrupted.noise.positions == prompt.constraint
    assert len(prompt.constraint) == 2
    prompt, corrupted = both(model, single, corruption="standard")
    assert corrupted.noise.positions == prompt.visual + prompt.constraint
    assert len(prompt.visual) == 9
    assert corrupted.first_corrupted == prompt.visual[0]
    assert changed(prompt, corrupted) == []  # the tokens stay, their embeddings do not


@pytest.mark.parametrize("corruption", ["noise", "standard"])
def test_the_noise_is_as_asked(model, single, corruption):
    noise = both(model, single, corruption=corruption, noise_scale=2.5, noise_samples=4, noise_seed=7)[1].noise
    assert (noise.scale, noise.samples, noise.seed) == (2.5, 4, 7)
    noise = both(model, single, corruption=corruption)[1].noise
    assert (noise.scale, noise.samples, noise.seed) == (3.0, 10, 0)  # as in ROME and the paper's section 4


def test_the_embeddings_that_noise_changes(model, single):
    """What the layers get: different at the noised positions, the same at all others."""
    for corruption in ("noise", "standard"):
        prompt, corrupted = both(model, single, corruption=corruption, noise_samples=1)
        noise, seen = corrupted.noise, []
        handle = model.module.model.language_model.layers[0].register_forward_pre_hook(
            lambda _, args, kwargs, seen=seen: seen.append((args[0] if args else kwargs["hidden_states"]).clone()),
            with_kwargs=True,
        )
        execution = Execution(method="plain")
        result = trace(model, prompt, corrupted, positions=[prompt.last], kinds="mlp", execution=execution)
        handle.remove()
        whole = [hidden[0, : len(prompt)] for hidden in seen if hidden.shape[1] >= len(prompt)]
        different = (whole[0] != whole[-1]).any(-1).nonzero().ravel().tolist()
        assert different == list(noise.positions)
        assert result.p_corrupted != pytest.approx(result.p_clean, abs=1e-3)


def test_standard_on_a_text_only_model_is_noise_on_the_name(text_model, single):
    prompt, corrupted = both(text_model, single, corruption="standard")
    assert prompt.visual == ()
    assert corrupted.noise.positions == prompt.constraint
    assert "".join(prompt.tokens[i] for i in prompt.constraint).strip() == "Peru"


ROLES = {"visual": ("constraint",), "text": ("text_constraint",), "both": ("constraint", "text_constraint")}


@pytest.mark.parametrize("corrupted", ROLES)
def test_which_constraint_of_two_is_corrupted(model, multi, corrupted):
    prompt, replaced = both(model, multi, corrupted=corrupted)
    question = {"visual": "Name a country that borders New Zealand and starts with B",
                "text": "Name a country that borders this country and starts with L",
                "both": "Name a country that borders New Zealand and starts with L"}[corrupted]
    assert question in replaced.text
    chosen = sorted(i for role in ROLES[corrupted] for i in prompt.positions(role))
    assert replaced.first_corrupted == chosen[0]
    prompt, repeated = both(model, multi, AUTHORS, corrupted=corrupted)
    chosen = sorted(i for role in ROLES[corrupted] for i in prompt.positions(role))
    assert changed(prompt, repeated) == chosen
    for corruption, more in (("noise", ()), ("standard", prompt.visual)):
        prompt, noised = both(model, multi, corruption=corruption, corrupted=corrupted)
        chosen = sorted(i for role in ROLES[corrupted] for i in prompt.positions(role))
        if more:
            chosen = sorted([*prompt.visual, *chosen])
        assert list(noised.noise.positions) == chosen


def test_the_presets_of_two_constraints(model, multi):
    prompt, corrupted = both(model, multi, PAPER)
    assert corrupted.first_corrupted == prompt.text_constraint[0]
    prompt, corrupted = both(model, multi, AUTHORS)
    assert changed(prompt, corrupted) == list(prompt.constraint)


@pytest.mark.parametrize("corrupted", ROLES)
@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_a_question_with_one_constraint_has_that_one_corrupted(model, single, corruption, corrupted):
    expected, found = (both(model, single, corruption=corruption, corrupted=name)[1] for name in ("visual", corrupted))
    assert torch.equal(expected.input_ids, found.input_ids)
    assert expected.noise == found.noise
    assert expected.first_corrupted == found.first_corrupted


# Items that cannot be used


def test_an_image_that_is_not_there(model, single, text_model, tmp_path):
    item = replace(single, image=tmp_path / "nowhere.png")
    with pytest.raises(Unusable, match=r"^image unreadable: "):
        clean_prompt(model, item, PAPER)
    clean_prompt(text_model, item, PAPER)  # which does not look at it


def test_a_constraint_that_the_format_cuts_off_is_not_found(model, single):
    item = replace(single, question="What is this country?", visual_constraint="this country?", paraphrases=())
    assert clean_prompt(model, item, PAPER)
    with pytest.raises(Unusable, match=r"^constraint not found: "):
        clean_prompt(model, item, AUTHORS)


def test_a_replacement_that_is_no_text_is_refused(model, single):
    item = replace(single, visual_replacement="<image>")
    with pytest.raises(Unusable, match=r"^replacement refused: "):
        both(model, item)
    both(model, item, AUTHORS)  # which does not use it


def test_items_on_their_way_are_left_out_with_what_they_need(model, text_model, single, multi):
    unmarked = replace(single, visual_constraint="", visual_replacement="")
    for asked in (model, text_model):
        with pytest.raises(Unusable, match=r"constraint not marked \(.* testbed annotate"):
            clean_prompt(asked, unmarked, PAPER)
    for item, conditions in (
        (replace(single, visual_replacement=""), PAPER), (replace(multi, text_replacement=None), PAPER),
        (replace(multi, visual_replacement=""), replace(PAPER, corrupted="both")),
    ):
        prompt = clean_prompt(model, item, conditions)
        with pytest.raises(Unusable, match=r"no replacement phrase \(.* testbed corruptions"):
            corrupted_prompt(model, item, prompt, conditions)
    # Neither is needed where nothing is replaced by a phrase, or by the other phrase.
    for item, conditions in (
        (replace(single, visual_replacement=""), AUTHORS),
        (replace(single, visual_replacement=""), Conditions("paper", corruption="noise")),
        (replace(multi, visual_replacement=""), PAPER),
    ):
        prompt, corrupted = both(model, item, conditions)
        assert corrupted.noise or not torch.equal(corrupted.input_ids, prompt.input_ids)


def test_a_named_item_has_its_entity_at_the_constraint_in_any_case(single):
    asked = replace(single, visual_constraint=single.visual_constraint.upper(), paraphrases=())
    assert named(asked).question == named(single).question
    assert "Peru" in named(asked).question


def test_a_named_item_in_another_unicode_form(single, text_model):
    question = unicodedata.normalize("NFD", "Where is this café located")
    asked = replace(single, question=question, visual_constraint=question[9:-8], paraphrases=())
    assert named(asked).question == "Where is Peru located"
    lost = replace(asked, visual_constraint="is")
    object.__setattr__(lost, "visual_constraint", "this hotel")  # as no item can be made
    with pytest.raises(Unusable, match="constraint not found"):
        clean_prompt(text_model, lost, PAPER)
