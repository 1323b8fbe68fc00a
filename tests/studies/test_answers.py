"""How an answer joins its prompt, which of its tokens is scored, and when it is right."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import tiny
import torch
from answering import questions, renamed, speaking
from tiny import ask

from interventions.attention import lead_time as lead
from interventions.attention.knockout import attention_knockout
from interventions.attention.study import attention_study
from interventions.editing.items import wrong_items
from interventions.editing.optimized_value import OPTIMIZERS, optimize_value
from interventions.engine import runs
from interventions.engine.runs import own_answer
from interventions.engine.windows import Execution
from interventions.errors import TraceError
from interventions.models.model import VisionLanguageModel
from interventions.prompts.corruption import corrupt, noise
from interventions.prompts.prompt import answer_tokens
from interventions.studies.answers import item_answer
from interventions.studies.loop import RunOptions
from interventions.testbed import Item, TestBed
from interventions.testbed.answers import accuracy, is_right
from interventions.tracing.causal_trace import Scoring, trace
from interventions.tracing.study import trace_study
from tests.models.test_load_checks import CHATML, with_chat
from tests.prompts.test_tokenizer_sweep import llama_tokenizer, phi_tokenizer
from tests.tracing.test_causal_trace import oracle

# Answers as a SentencePiece tokenizer of Llama's kind writes them behind "ASSISTANT:", by what can be seen first.
LLAMA = {
    "4": (["▁", "4"], "4"), "2006": (["▁", "2", "0", "0", "6"], "2"), "12 Angry Men": (["▁", "1", "2"], "1"),
    "東京": (["▁", "東", "京"], "東"), "القاهرة": (["▁ال"], "▁ال"), "Lima": (["▁L"], "▁L"), "(x)": (["▁("], "▁("),
    "½": (["▁", "½"], "½"), "Sri Lanka": (["▁Sri"], "▁Sri"), "!": (["▁!"], "▁!"),
}
MULTI_BYTE = "麤"  # no piece of its own: its bytes are
INTERLEAVE = (  # as LLaVA-Interleave over Qwen2 has it: the assistant's turn begins with the line break
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ '\n' + part['text'] }}{% endif %}"
    "{% endfor %}"
    "{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}"
)


@pytest.fixture(scope="module")
def words():
    return llama_tokenizer("new")


@torch.no_grad()
def deciding(words, answer: str, shift: float = 4.0):
    """A tiny LLaVA with a real SentencePiece tokenizer, and its prompts: behind the answer's blank tokens, its first
    visible one has a logit of 5 + shift after the clean prompt, of -5 + shift after the corrupted one, against 0."""
    model = tiny.build(words=words)
    prompt = ask(model)
    corrupted = corrupt(model, prompt, visual_replacement="Sri Lanka")
    forced, (token,) = runs.scored_part(answer_tokens(model, prompt, answer), model.blank_ids, sequence=False)
    clean, other = (
        model.module.model(
            input_ids=torch.cat([ids, torch.tensor(forced, dtype=torch.long)])[None], **prompt.image_inputs
        ).last_hidden_state[0, -1]
        for ids in (prompt.input_ids, corrupted.input_ids)
    )
    middle, between = (clean + other) / 2, clean - other
    between = between - (between @ middle) / (middle @ middle) * middle
    head = model.module.lm_head.weight
    head[:] = -40 * middle / (middle @ middle)
    head[token] = 10 * between / (between @ (clean - other)) + shift * middle / (middle @ middle)
    head[words.convert_tokens_to_ids("▁Peru")] = 0
    return model, prompt, corrupted


@pytest.mark.parametrize("form", ["new", "legacy", "normalizer"])
@pytest.mark.parametrize("answer", LLAMA)
def test_the_scored_token_can_be_seen(form, answer):
    model = tiny.build(words=llama_tokenizer(form))
    ids = answer_tokens(model, ask(model), answer)
    pieces, visible = LLAMA[answer]
    assert model.tokenizer.convert_ids_to_tokens(ids)[: len(pieces)] == pieces
    forced, scored = runs.scored_part(ids, model.blank_ids, sequence=False)
    assert model.tokenizer.convert_ids_to_tokens(scored) == [visible]
    assert model.decode(forced) == "" and model.decode(ids) == answer
    assert runs.scored_part(ids, model.blank_ids, sequence=True) == ([], ids)


def test_a_byte_of_a_character_is_no_blank():
    model = tiny.build(words=llama_tokenizer("new"))
    ids = answer_tokens(model, ask(model), MULTI_BYTE)
    _, scored = runs.scored_part(ids, model.blank_ids, sequence=False)
    assert model.tokenizer.convert_ids_to_tokens(scored)[0] == f"<0x{MULTI_BYTE.encode()[0]:02X}>"


@pytest.mark.parametrize("answer", ["4", "2006", "東京", "Lima", "القاهرة", "½"])
def test_byte_level_tokenizers_keep_the_space_with_the_word(answer):
    model = tiny.build("phi", "siglip", words=phi_tokenizer())
    ids = answer_tokens(model, ask(model), answer)
    forced, scored = runs.scored_part(ids, model.blank_ids, sequence=False)
    assert forced == [] and scored == ids[:1] and model.decode(ids) == answer


def test_an_answer_of_nothing_but_blanks_is_scored_by_its_last():
    assert runs.scored_part([7, 8], (7, 8), sequence=False) == ([7], [8])


@pytest.mark.parametrize(
    ("template", "joint"),
    [(CHATML, ""), (INTERLEAVE, "\n"), (CHATML.replace("assistant\n", "assistant:"), " "),
     (CHATML.replace("assistant\n", "assistant"), "\n")],
    ids=["ChatML", "ChatML without the line break", "a word", "a template without answers"],
)
def test_the_joint_follows_the_chat_format(template, joint):
    model = with_chat(template, ("qwen2", "siglip"))
    assert model.answer_joint() == joint
    assert model.answer_joint("authors") == " "  # "ASSISTANT:"
    prompt = ask(model)
    ids = answer_tokens(model, prompt, "Lima")
    assert model.tokenizer.decode([*prompt.input_ids.tolist(), *ids]).endswith(prompt.text[-9:] + joint + "Lima")


def test_a_format_that_ends_in_a_line_break_is_answered_without_a_space():
    """With a space, "Lima" is never what the model says, and every question counts as answered wrongly."""
    model = with_chat(CHATML, ("qwen2", "siglip"))
    prompt = ask(model)
    assert prompt.text.endswith("assistant\n")
    assert model.tokenizer.decode(answer_tokens(model, prompt, "Lima")) == "Lima"
    spaced = VisionLanguageModel.from_module(model.module, model.processor, prompt="<image>{question} A:  ")
    assert spaced.prompt.endswith("A:") and spaced.answer_joint() == " "  # the space is the answer's


@pytest.mark.parametrize("answer", ["4", "2006", "東京", "12 Angry Men", "Lima"])
def test_traces_equal_hooks_that_teacher_force_the_space(words, answer):
    model, prompt, corrupted = deciding(words, answer)
    for settings in (
        {}, {"execution": Execution("rows")}, {"execution": Execution("plain"), "positions": "constraint"}
    ):
        result = trace(model, prompt, corrupted, answer=answer, scoring=Scoring(require_top=False), **settings)
        assert result.p_clean > 0.99 and result.p_corrupted < 0.3 and np.nanmax(result.effects) > 0.3
        p_clean, p_corrupted, restored = oracle(model, prompt, corrupted, result)
        assert abs(result.p_clean - p_clean) < 1e-5 and abs(result.p_corrupted - p_corrupted) < 1e-5
        np.testing.assert_allclose(result.restored, restored, rtol=0, atol=1e-5)


def test_all_tokens_of_an_answer_hold_its_space_too(words):
    model, prompt, corrupted = deciding(words, "4")
    result = trace(model, prompt, corrupted, answer="4", scoring=Scoring(require_top=False, answer_score="sequence"))
    p_clean, _, restored = oracle(model, prompt, corrupted, result)
    assert result.p_clean == pytest.approx(p_clean, rel=1e-4)
    np.testing.assert_allclose(result.restored, restored, rtol=0, atol=1e-5)
    first = trace(model, prompt, corrupted, answer="4", scoring=Scoring(require_top=False))
    assert result.p_clean < first.p_clean / 2  # the space is unlikely here


def test_noise_and_several_draws_teacher_force_too(words):
    model, prompt, _ = deciding(words, "2006", shift=0)
    corrupted = noise(model, prompt, "constraint", samples=2)
    result = trace(model, prompt, corrupted, answer="2006", scoring=Scoring(require_top=False), positions="constraint")
    assert np.nanmax(np.abs(result.effects)) > 0.01
    _, p_corrupted, restored = oracle(model, prompt, corrupted, result)
    assert abs(result.p_corrupted - p_corrupted) < 1e-5
    np.testing.assert_allclose(result.restored, restored, rtol=0, atol=1e-5)


def test_knockouts_block_the_last_token_where_the_answer_is_read(words):
    """Behind the space another token reads the image: blocked only before it, nothing would be lost."""
    llama, prompt, _ = deciding(words, "2006", shift=0)
    flows = {"all": (tuple(range(prompt.last)), "last")}
    for method in ("packed", "rows"):
        found = attention_knockout(llama, prompt, flows=flows, answer="2006", execution=Execution(method=method))
        space, digit = found.answer_ids[:2]
        ids = torch.cat([prompt.input_ids, torch.tensor([space])])[None]
        mask = torch.full((1, 1, ids.shape[1], ids.shape[1]), torch.finfo(torch.float32).min).triu(1)
        assert abs(found.p_clean - logits(llama, prompt, ids, mask)[digit]) < 1e-5
        mask[..., prompt.last :, : prompt.last] = torch.finfo(torch.float32).min
        assert abs(found.p_all_blocked[0] - logits(llama, prompt, ids, mask)[digit]) < 1e-5
        assert found.p_clean - found.p_all_blocked[0] > 0.3


@torch.no_grad()
def logits(model, prompt, ids, mask):
    found = model.module(input_ids=ids, attention_mask=mask, **prompt.image_inputs)
    return found.logits[0, -1].softmax(-1).numpy()


def test_a_server_gives_the_same(words):
    """As it would travel: serialised, and run without the project's modules."""
    model, prompt, corrupted = deciding(words, "2006", shift=0)
    authors = replace(OPTIMIZERS["authors"], steps=2)
    for function in (
        lambda remote: trace(model, prompt, corrupted, answer="2006", scoring=Scoring(require_top=False),
                             execution=Execution(remote=remote)),
        lambda remote: attention_knockout(model, prompt, answer="2006", execution=Execution(remote=remote)),
        partial(optimize_value, model, prompt, "2006", layer=1, optimizer=authors),
        partial(own_answer, model, prompt, max_answer_tokens=3),
    ):
        here, there = function(remote=False), function(remote="local")
        for name, value in vars(there).items():
            if isinstance(value, np.ndarray | torch.Tensor | float):  # NaN equals NaN
                np.testing.assert_array_equal(getattr(here, name), value, err_msg=name)
            else:
                assert getattr(here, name) == value, name


def test_values_are_optimised_for_what_can_be_seen(words):
    llama, prompt, _ = deciding(words, "2006")
    first = optimize_value(llama, prompt, "2006", layer=1, optimizer=replace(OPTIMIZERS["authors"], clamp=0.0, steps=1))
    assert llama.tokenizer.convert_ids_to_tokens(first.target_ids) == ["2"]
    corrupted = corrupt(llama, prompt, visual_replacement="Peru")
    named = trace(llama, prompt, corrupted, answer="2006", scoring=Scoring(require_top=False))
    assert first.p_start == pytest.approx(named.p_clean, abs=1e-5)
    whole = optimize_value(llama, prompt, "2006", layer=1, optimizer=replace(OPTIMIZERS["paper"], steps=1))
    assert llama.tokenizer.convert_ids_to_tokens(whole.target_ids) == ["▁", "2", "0", "0", "6"]


def test_a_model_that_says_seven_is_not_right_about_four(words):
    """Both begin with the space, which was all that was looked at."""
    model = only(words, "▁", "7")
    prompt = ask(model)
    corrupted = corrupt(model, prompt, visual_replacement="Sri Lanka")
    assert own_answer(model, prompt, max_answer_tokens=2).text == "7"
    assert not trace(model, prompt, corrupted, scoring=Scoring(accepted=["4"], max_answer_tokens=2)).correct
    right = trace(model, prompt, corrupted, scoring=Scoring(accepted=["4", "7"], max_answer_tokens=2))
    assert right.correct and right.answer_text == "7"
    with pytest.raises(TraceError, match="answer '4' is not what the model answers, which is '7'"):
        trace(model, prompt, corrupted, answer="4", scoring=Scoring(max_answer_tokens=2))


@torch.no_grad()
def only(words, first: str, then: str):
    """A model that says `first`, and `then` behind it: read off the last token's embedding alone."""
    copy = tiny.build(words=words)
    ids = words.convert_tokens_to_ids([first, then])
    for layer in copy.module.model.language_model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    head, embeddings = copy.module.lm_head.weight, copy.module.model.language_model.embed_tokens.weight
    head.zero_()
    head[ids[0]] = embeddings[ask(copy).input_ids[-1]]
    head[ids[1]] = embeddings[ids[0]]
    return copy


def test_a_repeated_beginning_is_no_right_answer(tmp_path):
    """"Ken Ken Ken" counted as Kenyan where the first token decided."""
    model = renamed(speaking(tiny.build()), revision="r1")
    model.module.generation_config.eos_token_id = ()  # it goes on and on
    items = questions(model, tmp_path, n=2, parts=("known",))
    bed = [replace(item, text_constraint=None, text_replacement=None) for item in items]
    first = item_answer(model, bed[0], results_dir=tmp_path)
    assert len(first.ids) == 16 and not is_right(first.text, bed[0]) and accuracy(first.text, bed[0]) == 0
    whole = [replace(item, answers=(item_answer(model, item, results_dir=tmp_path).text,)) for item in bed]
    study = trace_study(model, [bed[0], whole[1]], run=RunOptions(results_dir=tmp_path), window=1)
    assert study.questions["correct"].tolist() == [False, True]


def test_every_study_counts_the_same_questions_as_right(tmp_path):
    """One question right, one wrong, one that only begins right: tracing, contributions and editing agree."""
    model = renamed(speaking(tiny.build()), revision="r2")
    items = questions(model, tmp_path, n=6, parts=("known",))
    items = [replace(item, text_constraint=None, text_replacement=None, split="") for item in items[:5]]
    items[1] = replace(items[1], answers=(items[1].answers[0] + "n",))
    items[2] = replace(items[2], answers=("elsewhere",))
    items[3] = replace(items[3], answers=(items[3].answers[0].upper() + ".",))  # as VQA accuracy compares them
    bed = TestBed("bed", tmp_path, tuple(items))
    right = {item.id for item in items if is_right(item_answer(model, item, results_dir=tmp_path).text, item)}
    assert right == {items[i].id for i in (0, 3, 4)}
    traced = trace_study(model, bed, window=1, run=RunOptions(results_dir=tmp_path), min_p_clean=0.0).questions
    read = attention_study(model, bed, run=RunOptions(results_dir=tmp_path)).questions
    wrong = {item.id for item, _ in wrong_items(model, bed, "correct", 0, results_dir=tmp_path)}
    assert set(traced.loc[traced["correct"], "id"]) == set(read.loc[read["correct"], "id"]) == right
    assert wrong == {item.id for item in items} - right
    assert traced.set_index("id")["p_clean"][items[0].id] == pytest.approx(
        read.set_index("id")["confidence"][items[0].id], abs=1e-5
    )


def test_lead_time_waits_for_the_token_that_can_be_seen(words, tmp_path, monkeypatch):
    """The confidence is that of the answer's first visible token, which is one forward later behind a space."""
    lengths, generated = [], lead.greedy_answer

    def watched(lm, request):
        lengths.append(request["max_answer_tokens"])
        return generated(lm, request)

    monkeypatch.setattr(lead, "greedy_answer", watched)
    tiny.picture().save(tmp_path / "a.png")
    item = Item(id="a", part="known", question=tiny.QUESTION, image=tmp_path / "a.png",
                visual_constraint="this country", answers=("7",))
    assert lead.lead_time(only(words, "▁", "7"), [item], (1, 2), run=RunOptions(tmp_path))["time_ratio"].n == 1
    assert set(lengths) == {2}


def test_a_text_only_model_with_a_chat_template_of_its_own_is_answered_behind_a_space():
    model = tiny.build("gqa", None)
    model.tokenizer.chat_template = (
        "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] | trim }}{% endfor %}"
    )
    prompt = ask(model)
    assert model.answer_joint() == " "
    assert model.tokenizer.decode(answer_tokens(model, prompt, "Lima")) == " Lima"


def test_accepted_answers_judge_the_models_own(words):
    model, prompt, corrupted = deciding(words, "4")
    with pytest.raises(TraceError, match="accepted judges the model's own answer, so answer must be left out"):
        trace(model, prompt, corrupted, answer="4", scoring=Scoring(accepted=["4"]))
