"""The trace against an oracle that shares no code with it: PyTorch hooks, one site at a time, whole
forwards."""

from dataclasses import replace

import elsewhere
import numpy as np
import pytest
import tiny
import torch
from answering import speaking
from hooked import oracle, request_for
from tiny import ask

from interventions.engine import runs
from interventions.engine.windows import Execution, window_spans
from interventions.errors import TraceError
from interventions.prompts.corruption import corrupt, noise
from interventions.tracing import restoration
from interventions.tracing.causal_trace import Scoring, trace

CASES = {  # name -> (how the prompt is corrupted, options of the trace, the least largest effect)
    "equal lengths": (dict(visual_replacement="Sri Lanka"), {}, 0.3),
    "shorter, window 1": (dict(visual_replacement="Peru"), dict(window=1), 0.02),
    "longer, radius": (
        dict(visual_replacement="the big country of Lima"),
        dict(window=2, window_rule="radius"),
        0.3,
    ),
    "both constraints, full window": (
        dict(visual_replacement="New Zealand", text_replacement="C"),
        dict(window=5),
        0.1,
    ),
    "text constraint": (dict(text_replacement="Sri"), dict(kinds="attention"), 0.05),
    "repeated token": (dict(repeat_token="Paris"), dict(kinds=("attention", "mlp")), 0.2),
    "all tokens of the answer": (
        dict(visual_replacement="Sri Lanka"),
        dict(scoring=Scoring("sequence", max_answer_tokens=3)),
        0.1,
    ),
    "noise": (dict(noise=True), {}, 0.1),
}


def corrupted_prompt(model, prompt, options):
    if "noise" in options:
        return noise(model, prompt, prompt.visual[-2:] + prompt.constraint, samples=2)
    return corrupt(model, prompt, **options)


@pytest.fixture(
    scope="module",
    params=[(*key, attention) for key in tiny.SEEDS for attention in ("sdpa", "eager")],
    ids=str,
)
def model(request):
    text, vision, attention = request.param
    model = tiny.build(text, vision, attention)
    assert model.module.config._attn_implementation == attention
    return model


@pytest.mark.parametrize("case", CASES)
def test_all_methods_equal_hooks(model, case):
    options, settings, least = CASES[case]
    prompt = ask(model)
    corrupted = corrupted_prompt(model, prompt, options)
    settings = {"scoring": Scoring(max_answer_tokens=1)} | settings
    if corrupted.noise:  # fewer tokens: the oracle and the plain method take a forward for each site and sample
        settings["positions"] = (*corrupted.noise.positions, prompt.last)
    packed = trace(model, prompt, corrupted, **settings)
    p_clean, p_corrupted, restored = oracle(model, prompt, corrupted, packed)
    assert np.nanmax(np.abs(packed.effects)) >= least
    assert (
        np.isnan(restored).sum()
        == np.isnan(packed.restored).sum()
        == sum(len(packed.kinds) * model.n_layers for i in packed.positions if corrupted.alignment[i] is None)
    )
    small = trace(model, prompt, corrupted, execution=Execution(max_packed_tokens=7), **settings)
    methods = (
        ("rows", "plain")
        if case in ("equal lengths", "both constraints, full window", "noise")
        else ("rows",)
    )
    others = [trace(model, prompt, corrupted, execution=Execution(method=method), **settings) for method in methods]
    for result in (packed, small, *others):
        assert abs(result.p_clean - p_clean) < 1e-5
        assert abs(result.p_corrupted - p_corrupted) < 1e-5
        np.testing.assert_allclose(result.restored, restored, rtol=0, atol=1e-5)
        assert result.answer_ids == packed.answer_ids


def test_before_the_first_corrupted_token_the_effect_is_exactly_zero(model):
    prompt = ask(model)
    corrupted = corrupt(model, prompt, visual_replacement="Sri Lanka")
    roles = ("visual", "constraint", "last") if model.is_multimodal else (0, "constraint", "last")
    fast = trace(model, prompt, corrupted, positions=roles)
    before = np.array(fast.positions) < corrupted.first_corrupted
    assert (
        before.any()
        and (fast.effects[:, before] == 0).all()
        and np.abs(fast.effects[:, ~before]).max() >= 0.3
    )
    # The claim itself, by running what the trace does not run: the same prompt, told that all of it may
    # differ.
    slow = trace(model, prompt, replace(corrupted, first_corrupted=0), positions=roles)
    np.testing.assert_allclose(slow.restored, fast.restored, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["packed", "rows", "plain"])
def test_restoring_everything_gives_p_clean(model, method):
    """Both kinds at every token and layer: the last token's residual stream is then the clean one, term by
    term."""
    prompt = ask(model)
    corrupted = corrupt(model, prompt, visual_replacement="the big country of Lima")
    pairs = tuple(
        (c, p) for c, p in enumerate(corrupted.alignment) if p is not None and c >= corrupted.first_corrupted
    )
    everything = (("mlp", "attention"), pairs, 0, model.n_layers)
    request = request_for(model, prompt, corrupted, [everything], method=method)
    result = restoration.restore_sites(model.traced, request)
    assert abs(result["p_clean"] - result["p_corrupted"]) > 0.1
    assert abs(float(result["restored"][0]) - result["p_clean"]) < 1e-5


@pytest.mark.parametrize("method", ["packed", "rows", "plain"])
def test_patching_a_run_with_itself_changes_nothing(model, method):
    prompt = ask(model)
    same = corrupt(model, prompt, visual_replacement="this country")
    assert same.input_ids.tolist() == prompt.input_ids.tolist()
    result = trace(model, prompt, same, positions=("constraint", "last"), scoring=Scoring(max_answer_tokens=1),
                   execution=Execution(method=method))
    assert np.abs(result.effects).max() < 1e-5 and abs(result.p_clean - result.p_corrupted) < 1e-5


def test_serialized_as_for_a_server_it_gives_the_same_table(model):
    """nnsight's remote="local": the whole request is pickled, the project's modules hidden, and unpickled."""
    prompt = ask(model)
    for corrupted in (
        corrupt(model, prompt, visual_replacement="Peru"),
        noise(model, prompt, "constraint", samples=2),
    ):
        here, there = (
            trace(model, prompt, corrupted, execution=Execution(remote=remote)) for remote in (False, "local")
        )
        assert np.nanmax(np.abs(here.effects)) > 0.05
        np.testing.assert_array_equal(here.restored, there.restored)
        assert here.to_frame().equals(there.to_frame())


def test_a_process_without_the_package_can_run_a_request(tmp_path, monkeypatch):
    model = tiny.build()
    prompt = ask(model)
    corrupted = corrupt(model, prompt, visual_replacement="Sri Lanka")
    here, there = elsewhere.both(
        model, tmp_path, monkeypatch, lambda: trace(model, prompt, corrupted, execution=Execution(remote="local"))
    )
    np.testing.assert_array_equal(there["restored"], here.restored.ravel())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("text", "vision"), [("llama", "clip"), ("phi", "siglip")])
def test_half_precision_takes_rows_and_a_row_does_not_know_its_neighbors(text, vision, dtype):
    model = tiny.build(text, vision, dtype=dtype)
    prompt = ask(model)
    corrupted = corrupt(model, prompt, visual_replacement="Sri Lanka")
    rows = trace(model, prompt, corrupted)
    assert rows.method == "rows"
    alone = trace(model, prompt, corrupted, execution=Execution(max_packed_tokens=1))
    np.testing.assert_allclose(
        rows.restored, alone.restored, rtol=0, atol=1e-7
    )  # the float32 softmax is not bitwise
    packed = trace(model, prompt, corrupted, execution=Execution(method="packed"))
    assert np.nanmax(np.abs(packed.restored - rows.restored)) < 0.1 and np.nanmax(np.abs(rows.effects)) > 0.2


def test_noise_is_as_large_as_the_embeddings_it_disturbs():
    """Visual tokens by their own standard deviation, text tokens by theirs; other tokens and draws stay apart."""
    ids = torch.tensor([[5, 3, 3, 7, 8, 9]])
    embeddings = torch.randn(1, 6, 4000, generator=torch.Generator().manual_seed(0)) + 5
    embeddings[:, 1:3] *= 10
    request = {"clean_ids": ids, "image_token_id": 3, "first": 1, "noise": ((1, 2, 4), 3.0, 2, 7)}
    one, two = (runs.embedding_noise(request, embeddings, embeddings[:, 1:], n)[0] for n in range(2))
    assert one.shape == embeddings[0, 1:].shape
    assert one[[0, 1]].std().item() == pytest.approx(3 * embeddings[0, [1, 2]].std().item(), rel=0.05)
    assert one[3].std().item() == pytest.approx(3 * embeddings[0, 4].std().item(), rel=0.05)
    assert (one[[2, 4]] == 0).all()
    assert not torch.equal(one[0], one[1]) and not torch.equal(one, two)
    again = runs.embedding_noise(request, embeddings, embeddings[:, 1:], 0)[0]
    assert torch.equal(one, again)


def test_table_names_every_site():
    model = tiny.build()
    prompt = ask(model)
    result = trace(model, prompt, corrupt(model, prompt, visual_replacement="Peru"), answer=None)
    frame = result.to_frame()
    assert list(frame.columns) == [
        "kind",
        "position",
        "token",
        "role",
        "layer",
        "p_restored",
        "effect",
        "p_clean",
        "p_corrupted",
    ]
    assert len(frame) == result.restored.size
    row = frame.iloc[1 * model.n_layers + 2]  # kind 0, second position, layer 2
    assert (row.kind, row.position, row.layer) == ("mlp", result.positions[1], 2)
    assert row.p_restored == result.restored[0, 1, 2] and row.token == prompt.tokens[row.position]
    assert row.role == prompt.roles[row.position] == "constraint"
    missing = frame[frame.p_restored.isna()]
    assert set(missing.token) == {" this"}  # two tokens became one: the first has no counterpart


def test_an_answer_may_be_named():
    model = tiny.build()
    prompt = ask(model)
    corrupted = corrupt(model, prompt, visual_replacement="Sri Lanka")
    own = trace(model, prompt, corrupted)
    with pytest.raises(TraceError, match="answer 'Lima' is not what the model answers"):
        trace(model, prompt, corrupted, answer="Lima")
    named = trace(model, prompt, corrupted, answer="Lima", scoring=Scoring(require_top=False))
    assert named.answer_text == "Lima" and named.p_clean < own.p_clean


def test_a_wrong_or_unsure_answer_ends_the_work_after_the_clean_run(monkeypatch):
    model = speaking(tiny.build())
    prompt = ask(model)
    corrupted = corrupt(model, prompt, visual_replacement="Sri Lanka")
    own = trace(model, prompt, corrupted)
    scoring = Scoring(accepted=["Lima", own.answer_text], min_p_clean=own.p_clean * 0.99)
    right = trace(model, prompt, corrupted, scoring=scoring)
    assert right.correct and trace(model, prompt, corrupted, scoring=Scoring(accepted=own.answer_text)).correct
    np.testing.assert_array_equal(right.restored, own.restored)
    monkeypatch.setattr("interventions.engine.runs.corrupted_run", None)  # would fail if it were called
    wrong = trace(model, prompt, corrupted, scoring=Scoring(accepted=["Lima"]))
    scoring = Scoring(accepted=[own.answer_text], min_p_clean=own.p_clean * 1.01)
    unsure = trace(model, prompt, corrupted, scoring=scoring)
    assert (wrong.correct, unsure.correct) == (False, True)
    for result in (wrong, unsure):
        assert result.p_clean == own.p_clean and result.answer_text == own.answer_text
        assert np.isnan(result.restored).all() and np.isnan(result.p_corrupted)


@pytest.mark.parametrize(
    ("rule", "window", "expected"),
    [
        ("centered", 1, [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]),
        ("centered", 3, [(0, 2), (0, 3), (1, 4), (2, 5), (3, 5)]),
        ("centered", 4, [(0, 2), (0, 3), (0, 4), (1, 5), (2, 5)]),
        ("radius", 1, [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]),
        ("radius", 2, [(0, 3), (0, 4), (0, 5), (1, 5), (2, 5)]),
    ],
)
def test_windows(rule, window, expected):
    assert window_spans(window, rule, 5) == expected


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (dict(window=0), "window must be a whole number from 1 to the model's 5 layers, not 0"),
        (dict(window=6), "window must be"),
        (dict(window=2.5), "window must be"),
        (dict(window_rule="left"), "window_rule is unknown: 'left'"),
        (dict(kinds=("mlp", "mpl")), "kinds is unknown: 'mpl'"),
        (dict(kinds=()), "kinds is empty"),
        (dict(execution=Execution("fast")), "method is unknown: 'fast'; use 'packed', 'rows', 'plain'"),
        (dict(positions=("subject",)), "positions names the unknown role 'subject'"),
        (dict(positions=(1000,)), "positions holds 1000"),
        (dict(positions=()), "positions names no token"),
        (dict(answer="  "), "answer '' has no tokens"),
    ],
)
def test_mistakes_end_in_a_sentence(settings, sentence):
    model = tiny.build()
    prompt = ask(model)
    with pytest.raises(TraceError, match=sentence) as error:
        trace(model, prompt, corrupt(model, prompt, visual_replacement="Sri Lanka"), **settings)
    assert str(error.value).count("\n") == 0 and str(error.value).endswith(".")


def test_mistakes_in_grouped_options_end_in_a_sentence():
    with pytest.raises(TraceError, match="answer_score is unknown: 'last'"):
        Scoring("last")
    for n in (0, -5):
        with pytest.raises(TraceError, match=f"max_packed_tokens must be at least 1, not {n}"):
            Execution(max_packed_tokens=n)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ([99999], r"answer must be token ids, whole numbers from 0 to \d+, not 99999"),
        ([-1], "answer must be token ids"),
        ([True], "answer must be token ids"),
        ([3.5], "answer must be token ids"),
        ([], "answer holds no token"),
        ("", "answer '' has no tokens of its own"),
        ("Lima</s>", "answer contains '</s>'"),
        ("x" * 500, "answer 'x{,80}"),
    ],
)
def test_answers_that_cannot_be_scored(answer, sentence):
    model = tiny.build()
    prompt = ask(model)
    with pytest.raises(TraceError, match=sentence) as error:
        trace(model, prompt, corrupt(model, prompt, visual_replacement="Peru"), answer=answer)
    assert len(str(error.value)) < 300
