"""Tracing finds the route that was planted in the weights by hand (see planted.py), and no other."""

from dataclasses import replace

import planted
import pytest
import torch
from planted import QUESTIONS

from interventions.engine.windows import Execution
from interventions.prompts.corruption import corrupt
from interventions.prompts.prompt import build_prompt
from interventions.studies.conditions import Conditions
from interventions.studies.loop import RunOptions
from interventions.tracing.averages import by_role_layer, layer_tests, peak_layers
from interventions.tracing.causal_trace import trace
from interventions.tracing.study import trace_study

PLACES = [(0, 0, 2), (0, 1, 3), (1, 2, 4), (1, 4, 5), (3, 3, 5)]  # read, lookup, move, of six layers
HIGH, LOW = 0.5, 0.05
AROUND = "ASSISTANT:"  # the reader that makes the route go around the constraint


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    """Half of the questions: every flag, and the constraint early, in the middle and at the end of a question."""
    return planted.items(tmp_path_factory.mktemp("flags"))[::2]


def centers(layer: int, window: int) -> set[int]:
    """Centres of the windows of six layers that contain a layer, written out."""
    offsets = {1: (0,), 2: (0, 1), 3: (-1, 0, 1), 5: (-2, -1, 0, 1, 2)}[window]  # an even window reaches further back
    return {layer + offset for offset in offsets} & set(range(6))


def expected(read, lookup, move, window, reader="constraint_last") -> set:
    """The cells (kind, role, layer) that carry the effect."""
    cells = {("mlp", reader, layer) for layer in centers(lookup, window)}
    cells |= {("attention", reader, layer) for layer in centers(read, window)}
    return cells | {("attention", "last", layer) for layer in centers(move, window)}


def check(sites, cells: set) -> None:
    """The effect of every question is large in these cells, and in no other."""
    for row in sites.itertuples():
        if (row.kind, row.role, row.layer) in cells:
            assert row.effect >= HIGH, row
        else:
            assert abs(row.effect) <= LOW, row
    assert cells <= set(zip(sites["kind"], sites["role"], sites["layer"], strict=True))


@pytest.mark.parametrize("window", [1, 2, 3])
@pytest.mark.parametrize("places", PLACES, ids=str)
def test_the_effect_is_exactly_where_the_fact_is_planted(places, window, items, tmp_path):
    study = trace_study(planted.build(*places), items, window=window, run=RunOptions(results_dir=tmp_path))
    assert study.questions["used"].all()
    assert (study.questions["p_clean"] > 0.95).all()
    assert (study.questions["p_corrupted"] < LOW).all()
    check(study.sites, expected(*places, window))
    averages = by_role_layer(study.sites).query("kind == 'mlp'")
    assert averages.loc[averages["effect"] >= HIGH, "role"].unique().tolist() == ["constraint_last"]
    if window == 1:
        read, lookup, _ = places
        peaks = peak_layers(study)
        assert set(peaks.loc[peaks["kind"] == "mlp", "layer"]) == {lookup}
        assert set(peaks.loc[peaks["kind"] == "attention", "layer"]) == {read}
        tests = layer_tests(study).query("kind == 'mlp'").set_index("layer")
        assert tests["p_corrected"].idxmin() == lookup
        assert tests["p_corrected"][lookup] < 0.05
        assert (tests["p_corrected"].drop(lookup) > 0.2).all()
        last = study.sites[study.sites["role"] == "last"].assign(read=True)
        moved = layer_tests(replace(study, sites=last)).query("kind == 'attention'").set_index("layer")
        assert moved["p_corrected"].idxmin() == places[2]


@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("places", PLACES, ids=str)
def test_a_route_around_the_constraint_has_no_effect_there(places, window, items, tmp_path):
    study = trace_study(planted.build(*places, reader=AROUND), items, window=window,
        run=RunOptions(results_dir=tmp_path))
    # As in the other model the corruption loses the answer, so there is something to bring back ...
    assert study.questions["used"].all()
    assert (study.questions["p_corrupted"] < LOW).all()
    # ... but only at the last token, which reads the image and looks the fact up itself.
    assert study.sites.loc[study.sites["role"].isin(["constraint", "constraint_last"]), "effect"].abs().max() <= LOW
    check(study.sites, expected(*places, window, reader="last"))
    averages = layer_tests(study)
    assert (averages["effect"].abs() <= LOW).all()
    assert (averages["p_corrected"] > 0.05).all()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("reader", ["country", AROUND])
def test_every_method_sees_the_same_route(reader, attention):
    model = planted.build(1, 2, 4, reader=reader, attention=attention)
    assert model.attention == attention
    prompt = build_prompt(model, QUESTIONS[1], planted.flag("Peru"), visual_constraint="this country")
    corrupted = corrupt(model, prompt, visual_replacement=planted.REPLACEMENT)
    for method in ("packed", "rows", "plain"):
        sites = trace(model, prompt, corrupted, window=3, execution=Execution(method=method)).to_frame()
        sites.loc[sites["position"] == prompt.constraint[-1], "role"] = "constraint_last"
        check(sites, expected(1, 2, 4, 3, reader="last" if reader == AROUND else "constraint_last"))


@pytest.mark.parametrize("replacement", ["Kenya", "South South Africa"])
def test_a_replacement_of_another_length_changes_nothing(replacement, tmp_path):
    changed = planted.items(tmp_path, replacement=replacement)[:3]
    study = trace_study(planted.build(1, 2, 4), changed, window=1, run=RunOptions(results_dir=tmp_path))
    assert study.questions["used"].all()
    check(study.sites.dropna(subset="effect"), expected(1, 2, 4, 1))


def test_the_effect_is_what_is_gained_over_the_corrupted_run(items, tmp_path):
    """A model that guesses "Lima" half of the time if it knows nothing: half is left to gain, at two sites only."""
    model = planted.build(1, 2, 4)
    with torch.no_grad():
        model.module.lm_head.weight[planted.WORDS.index("Lima"), planted.BALLAST] = 10 / planted.LARGE
    repeat = Conditions(corruption="repeat")  # "Paris" is no country, so nothing is known in the corrupted run
    study = trace_study(model, items[:1], window=1, conditions=repeat, run=RunOptions(results_dir=tmp_path))
    assert study.questions["p_corrupted"].item() == pytest.approx(0.5, abs=1e-3)
    found = study.sites[study.sites["role"] == "constraint_last"].set_index(["kind", "layer"])
    assert found["effect"]["mlp", 2] == pytest.approx(0.5, abs=1e-3)
    assert found["p_restored"]["mlp", 2] == pytest.approx(1, abs=1e-3)
    rest = found.drop([("mlp", 2), ("attention", 1)])
    assert rest["effect"].abs().max() < 1e-3
    assert rest["p_restored"].sub(0.5).abs().max() < 1e-3  # what the released scripts report there


@pytest.mark.parametrize(("window", "width"), [(1, 1), (2, 5)])
def test_the_authors_protocol_finds_it_with_its_wider_windows(window, width, items, tmp_path):
    study = trace_study(planted.build(1, 2, 4), items, window=window, conditions=Conditions("authors"),
                        run=RunOptions(results_dir=tmp_path))
    assert study.questions["used"].all()
    check(study.sites, expected(1, 2, 4, width))


@pytest.mark.parametrize("reader", ["country", AROUND])
def test_nothing_but_the_route_is_planted(reader):
    """Module outputs of the clean run that are not zero: two attentions and an MLP, each at one token."""
    read, lookup, move = 1, 3, 4
    model = planted.build(read, lookup, move, reader=reader)
    prompt = build_prompt(model, QUESTIONS[2], planted.flag("Japan"), visual_constraint="this country")
    active = set()

    def note(kind, layer):
        def hook(_, __, output):
            output = output[0] if isinstance(output, tuple) else output
            tokens = output[0].abs().max(-1).values > 1e-3
            active.update((kind, layer, prompt.tokens[i]) for i in tokens.nonzero().ravel().tolist())

        return hook

    for index, layer in enumerate(model.module.model.language_model.layers):
        layer.self_attn.register_forward_hook(note("attention", index))
        layer.mlp.register_forward_hook(note("mlp", index))
    logits = model.module(input_ids=prompt.input_ids[None], **prompt.image_inputs).logits[0, -1]
    assert planted.WORDS[logits.argmax()] == "Tokyo"
    assert active == {("attention", read, reader), ("mlp", lookup, reader), ("attention", move, "ASSISTANT:")}
