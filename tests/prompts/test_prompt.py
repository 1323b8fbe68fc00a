"""Positions come from character offsets; every restored pair stands for the same word."""

import re
import unicodedata

import numpy as np
import pytest
import tiny
import torch

from interventions.attention.contributions import attention_contributions
from interventions.attention.knockout import attention_knockout
from interventions.editing.multedit import edit_facts
from interventions.errors import EditError, ModelError, PromptError, TraceError
from interventions.prompts.corruption import corrupt, noise
from interventions.prompts.prompt import build_prompt, resolve_positions
from interventions.prompts.tokens import align, check_token_ids, token_texts
from interventions.text import find_phrase

QUESTION = "The capital of this country is"


@pytest.fixture(scope="module")
def model():
    return tiny.build()


def ask(model, question=QUESTION, constraint="this country", **kwargs):
    return build_prompt(model, question, tiny.picture(), visual_constraint=constraint, **kwargs)


def words(prompt, positions):
    return "".join(prompt.tokens[i] for i in positions)


@pytest.mark.parametrize(
    ("question", "constraint"),
    [
        ("The capital of this country is", "this country"),
        ("this country is in", "this country"),  # at the start, where the newline comes before it
        ("Name the capital of this country", "this country"),
        ("Name the capital of (this country)?", "this country"),
        ("this country's capital is", "this country"),
        ("  The capital of THIS country is", "this country"),
        ("La capitale de São Tomé est", "São Tomé"),
        ("首都はこの国です", "この国"),
        ("The capital of 🇵🇪 is", "🇵🇪"),
        (
            "The country of this countryside is this country",
            "this country",
        ),  # whole words before parts of words
    ],
)
def test_the_constraints_tokens_are_its_characters(model, question, constraint):
    prompt = ask(model, question, constraint)
    assert (
        prompt.positions("constraint")
        == prompt.constraint
        == tuple(range(prompt.constraint[0], prompt.constraint[-1] + 1))
    )
    begin, end = prompt.spans["constraint"]
    # Exactly the tokens needed to spell the constraint: decoded they give it, without the first or last they
    # do not.
    spelled = model.tokenizer.decode(prompt.input_ids[list(prompt.constraint)])
    assert spelled.strip() == prompt.question[begin:end] and spelled.strip().lower() == constraint.lower()
    assert model.tokenizer.decode(prompt.input_ids[list(prompt.constraint[1:])]).strip() != spelled.strip()


def test_a_token_that_is_only_the_space_before_does_not_belong(model):
    prompt = ask(model, "Name it with Xylo now", "Xylo")  # " X" is no token: the space stands alone
    before = prompt.constraint[0] - 1
    assert (
        prompt.tokens[before] == " "
        and prompt.roles[before] == "other"
        and words(prompt, prompt.constraint) == "Xylo"
    )


def test_two_ways_to_write_a_letter_are_one(model):
    prompt = ask(
        model,
        unicodedata.normalize("NFD", "La capitale de São Tomé est"),
        unicodedata.normalize("NFC", "São Tomé"),
    )
    assert unicodedata.is_normalized("NFC", prompt.question) and prompt.constraint


def test_roles_and_text(model):
    prompt = ask(model, "Name a country that borders this country and starts with B", text_constraint="B")
    assert (
        prompt.text == "USER: <image>\nName a country that borders this country and starts with B ASSISTANT:"
    )
    assert len(prompt.visual) == model.n_image_tokens == 9 and prompt.input_ids.shape == (len(prompt),)
    assert (prompt.input_ids[list(prompt.visual)] == model.image_token_id).all()
    assert words(prompt, prompt.text_constraint) == " B" and prompt.tokens[prompt.last] == ":"
    assert (
        prompt.roles[prompt.last] == "last"
        and prompt.tokens[0] == "<s>"
        and prompt.image_inputs["pixel_values"].shape == (1, 3, 24, 24)
    )
    processed = model.processor(images=tiny.picture(), text=prompt.text, return_tensors="pt")
    assert processed["input_ids"][0].tolist() == prompt.input_ids.tolist()
    assert (processed["pixel_values"] == prompt.image_inputs["pixel_values"]).all()


def test_templates(model):
    authors = ask(model, QUESTION + "?", protocol="authors")
    assert authors.text == f"<image>\nUSER: {QUESTION}? Answer in a few words.\nASSISTANT:"
    assert words(authors, authors.constraint) == " this country"
    assert (
        build_prompt(model, QUESTION, visual_constraint="this country").text
        == f"USER: \n{QUESTION} ASSISTANT:"
    )
    bunny = ask(tiny.build("phi", "siglip"))
    assert bunny.text.startswith("A chat between a curious user") and bunny.text.endswith(
        f"USER: <image>\n{QUESTION} ASSISTANT:"
    )
    with pytest.raises(ModelError, match="protocol 'ours' is unknown: use one of paper, authors"):
        ask(model, protocol="ours")


def aligned(prompt, corrupted):
    return [
        (prompt.tokens[c], None if p is None else corrupted.tokens[p])
        for c, p in enumerate(corrupted.alignment)
    ]


def test_equal_lengths_align_one_to_one(model):
    prompt = ask(model)
    corrupted = corrupt(model, prompt, visual_replacement="Sri Lanka")
    assert corrupted.alignment == tuple(range(len(prompt)))
    assert [pair for pair in aligned(prompt, corrupted) if pair[0] != pair[1]] == [
        (" this", " Sri"),
        (" country", " Lanka"),
    ]
    assert corrupted.first_corrupted == prompt.constraint[0] and "Sri Lanka is ASSISTANT" in corrupted.text


def test_a_shorter_replacement_leaves_the_constraints_first_tokens_without_counterpart(model):
    prompt = ask(model)
    corrupted = corrupt(model, prompt, visual_replacement="Peru")
    pairs = aligned(prompt, corrupted)
    start = prompt.constraint[0]
    assert pairs[start:] == [
        (" this", None),
        (" country", " Peru"),
        (" is", " is"),
        (" ASSISTANT", " ASSISTANT"),
        (":", ":"),
    ]
    assert (
        corrupted.alignment[:start] == tuple(range(start))
        and corrupted.alignment[-1] == len(corrupted.input_ids) - 1
    )


def test_a_longer_replacement_aligns_on_its_end(model):
    prompt = ask(model)
    corrupted = corrupt(model, prompt, visual_replacement="New Zealand and Peru")
    start = prompt.constraint[0]
    assert aligned(prompt, corrupted)[start:] == [
        (" this", " and"),
        (" country", " Peru"),
        *[(t, t) for t in prompt.tokens[start + 2 :]],
    ]
    assert corrupted.first_corrupted == start


def test_two_constraints(model):
    prompt = ask(model, "Name a country that borders this country and starts with B", text_constraint="B")
    both = corrupt(model, prompt, visual_replacement="Peru", text_replacement="Colombo")
    pairs = aligned(prompt, both)
    assert pairs[prompt.constraint[0]] == (" this", None) and pairs[prompt.text_constraint[0]] == (
        " B",
        " Colombo",
    )
    assert all(
        a == b for i, (a, b) in enumerate(pairs) if i not in prompt.constraint + prompt.text_constraint
    )
    text_only = corrupt(model, prompt, text_replacement="Colombo")
    assert text_only.first_corrupted == prompt.text_constraint[0] and " this country" in text_only.text


def test_a_replacement_that_is_tokenised_with_its_neighbour(model):
    """ " B" is one token, " C" is two (space and letter): the extra space has no clean token, the letters
    align."""
    prompt = ask(model, "Name a country that borders this country and starts with B", text_constraint="B")
    corrupted = corrupt(model, prompt, text_replacement="C")
    assert len(corrupted.input_ids) == len(prompt) + 1
    pairs = aligned(prompt, corrupted)
    assert (
        pairs[prompt.text_constraint[0]] == (" B", "C") and corrupted.tokens[corrupted.first_corrupted] == " "
    )
    back = corrupt(
        model, ask(model, "borders this country and starts with C", text_constraint="C"), text_replacement="B"
    )
    assert back.tokens[back.first_corrupted] == " B" and None in back.alignment


def test_repeated_token(model):
    prompt = ask(model)
    corrupted = corrupt(model, prompt, repeat_token="Paris")
    assert [corrupted.tokens[i] for i in prompt.constraint] == [" Paris"] * len(prompt.constraint)
    assert (
        corrupted.alignment == tuple(range(len(prompt))) and corrupted.first_corrupted == prompt.constraint[0]
    )
    assert corrupt(model, prompt, repeat_token=7).input_ids[prompt.constraint[0]] == 7
    with pytest.raises(PromptError, match="repeat_role 'text_constraint' has no token"):
        corrupt(model, prompt, repeat_token="Paris", repeat_role="text_constraint")


def test_noise(model):
    prompt = ask(model)
    noised = noise(model, prompt, ("visual", "constraint"), scale=2.0, samples=4, seed=3)
    assert (
        noised.noise.positions == prompt.visual + prompt.constraint
        and noised.first_corrupted == prompt.visual[0]
    )
    assert noise(model, prompt, (-1, 3)).noise.positions == (3, prompt.last)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda m: ask(m, constraint="this building"),
            "visual_constraint 'this building' is not in the question",
        ),
        (lambda m: ask(m, text_constraint="2006"), "text_constraint '2006' is not in the question"),
        (lambda m: ask(m, text_constraint="country"), "text_constraint 'country' overlaps visual_constraint"),
        (lambda m: ask(m, constraint=" "), "visual_constraint is empty"),
        (lambda m: ask(m, question="  "), "question is empty"),
        (lambda m: ask(m, question="<image> this country"), "question contains '<image>'"),
        (lambda m: ask(tiny.build("gqa", None)), "image was given but model 'tiny-gqa-None' reads text only"),
        (lambda m: corrupt(m, ask(m)), "visual_replacement, text_replacement or repeat_token must be given"),
        (lambda m: corrupt(m, ask(m), visual_replacement=""), "must be given, and not be empty"),
        (
            lambda m: corrupt(m, ask(m), text_replacement="B"),
            "text_replacement was given but the prompt has no text_constraint",
        ),
        (
            lambda m: corrupt(m, ask(m), visual_replacement="Peru", repeat_token="Paris"),
            "repeat_token replaces the constraint by itself",
        ),
        (lambda m: corrupt(m, ask(m), repeat_token=" "), "repeat_token is empty: give a word"),
        (
            lambda m: corrupt(m, ask(m), repeat_token="Paris", repeat_role="text_constraint"),
            r"repeat_role 'text_constraint' has no token in this prompt: use 'constraint'\.",
        ),
        (
            lambda m: corrupt(m, ask(m), visual_replacement="<image> Peru"),
            "visual_replacement contains '<image>', the placeholder of the image",
        ),
        (
            lambda m: corrupt(m, ask(m, text_constraint="capital"), text_replacement="<image>"),
            "text_replacement contains '<image>'",
        ),
        (lambda m: noise(m, ask(m), "subject"), "positions names the unknown role 'subject'"),
        (lambda m: noise(m, ask(m), "text_constraint"), "positions names no token"),
        (lambda m: noise(m, ask(m), "last", scale=0), "scale must be a number larger than 0"),
        (lambda m: noise(m, ask(m), "last", samples=0), "samples must be a whole number, at least 1"),
    ],
)
def test_mistakes_end_in_a_sentence(model, call, sentence):
    with pytest.raises(PromptError, match=sentence) as error:
        call(model)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_a_neighbour_that_is_tokenised_otherwise_is_no_part_of_the_phrase():
    space, marked = ([1, 20, 21, 9], [(2, 3)]), ([1, 40, 9], [(1, 2)])  # " " "C" before the end; one token ")?"
    assert align(space[0], [1, 30, 31, 32, 9], [(space[1][0], (1, 4))]) == ((0, None, 3, 4), 1)
    assert align([1, 30, 31, 32, 9], space[0], [((1, 4), space[1][0])]) == ((0, None, None, 2, 3), 1)
    assert align(marked[0], [1, 50, 51, 9], [(marked[1][0], (1, 2))]) == ((0, 1, 3), 1)
    assert align([1, 50, 51, 9], marked[0], [((1, 2), marked[1][0])]) == ((0, 1, None, 2), 1)


def test_a_vowel_sign_belongs_to_its_word():
    """भारत is the first part of भारतीय, whose next sign is a mark and no letter."""
    assert find_phrase("भारतीय लोग भारत में", "भारत", "x", last=False) == (11, 15)


def test_of_several_occurrences():
    assert find_phrase("a B or a B", "B", "x", last=False) == (2, 3) and find_phrase(
        "a B or a B", "B", "x", last=True
    ) == (9, 10)
    assert find_phrase("Borders with b", "B", "x", last=False) == (13, 14)  # a whole word, its case forgiven


def test_a_token_beyond_the_tokenizer_has_no_text():
    """Embeddings are padded to a round number (Phi-2's by 905 rows), and a model may answer with a spare one."""
    model = tiny.build()
    assert token_texts(model, [len(model.tokenizer) + 5, 40]) == ["", model.tokenizer.decode([40])]


# Control tokens and ids


def with_chatml():
    """A tiny model whose tokenizer has control tokens in several ways, as Qwen2's."""
    words = tiny.tokenizer()
    words.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    words.add_tokens(["<tool_call>", "[INST]", "Lima"])  # added, but not special; the last is a word
    return tiny.build(words=words)


@pytest.mark.parametrize("token", ["</s>", "<s>", "<pad>", "<image>", "<|im_end|>", "<tool_call>", "[INST]"])
def test_control_tokens_in_what_users_write_are_refused(token):
    model = with_chatml()
    prompt, what = ask(model), "the placeholder of the image" if token == "<image>" else "a control token of this model"
    cases = {
        "question": lambda: ask(model, f"The {token} capital of this country is"),
        "visual_replacement": lambda: corrupt(model, prompt, visual_replacement=f"Sri{token}Lanka"),
        "repeat_token": lambda: corrupt(model, prompt, repeat_token=token),
    }
    for name, case in cases.items():
        with pytest.raises(PromptError, match=re.escape(f"{name} contains {token!r}, {what}: leave it out.")):
            case()
    with pytest.raises(EditError, match=re.escape(f"target contains {token!r}, {what}: leave it out.")):
        edit_facts(model, [(prompt, f"Lima{token}")])
    with pytest.raises(PromptError, match="question contains"):
        model.generate_answer(None, f"What is {token}?")


def test_what_only_looks_like_a_control_token_is_asked():
    model = with_chatml()
    for question in ("Is this country < Peru > Chile", "Lima and this country <3 [A]", "this country </i>"):
        assert ask(model, question).question == question


@pytest.mark.parametrize("token", [9999, -1, 3.5, True, None.__class__, float("nan"), 10**30])
def test_a_token_to_repeat_is_one_of_the_vocabulary(model, token):
    with pytest.raises(PromptError, match=r"^repeat_token must be token ids, whole numbers from 0 to \d+, not .*\.$"):
        corrupt(model, ask(model), repeat_token=token)


def test_the_image_s_own_token_is_not_repeated(model):
    with pytest.raises(PromptError, match="is the placeholder of the image"):
        corrupt(model, ask(model), repeat_token=model.image_token_id)
    ids = np.array([model.config.get_text_config().vocab_size - 1])
    assert check_token_ids(model, "answer", ids) == tuple(ids.tolist())
    with pytest.raises(TraceError, match=r"answer must be token ids, whole numbers from 0 to \d+, not 99999\."):
        check_token_ids(model, "answer", [1, 99999], TraceError)


def test_long_phrases_are_quoted_by_their_beginning(model):
    for case in (lambda: ask(model, "x" * 5_000), lambda: ask(model, QUESTION, "y" * 5_000),
                 lambda: corrupt(model, ask(model), repeat_token="Paris", repeat_role="z" * 5_000)):
        with pytest.raises(PromptError) as error:
            case()
        assert len(str(error.value)) < 400


def test_the_last_token_is_last_whatever_else_it_is():
    """A format may end in the question, and the question in its constraint: then one token has two roles."""
    model = tiny.build()
    model.prompt = "USER: <image>{question}"
    prompt = ask(model, "Name the capital of this country")
    assert prompt.constraint[-1] == prompt.last and prompt.roles[-1] == "constraint"
    assert prompt.positions("last") == (prompt.last,)
    assert resolve_positions(prompt, ("last", "constraint")) == prompt.constraint
    flows = attention_knockout(model, prompt, flows={"to the last": ("visual", "last")})
    assert flows.p_clean != flows.p_all_blocked[0]
    found = attention_contributions(model, prompt, queries="last", keys="visual")
    assert found.queries == (prompt.last,) and found.norms.max() > 0


@pytest.mark.parametrize(("options", "told"), [
    ({"scale": 0}, "scale must be a number larger than 0, not 0"), ({"scale": float("nan")}, "not nan"),
    ({"scale": float("inf")}, "not inf"), ({"scale": True}, "not True"), ({"scale": "3"}, "not '3'"),
    ({"samples": 0}, "samples must be a whole number, at least 1, not 0"), ({"samples": 2.5}, "not 2.5"),
    ({"samples": True}, "not True"), ({"seed": -1}, "seed must be a whole number, at least 0, not -1"),
    ({"seed": 10**30}, "seed must be a whole number"), ({"seed": 0.5}, "not 0.5"),
])
def test_numbers_of_noise_out_of_range(model, options, told):
    with pytest.raises(PromptError, match=told):
        noise(model, ask(model), ("constraint",), **options)


@pytest.mark.parametrize("positions", [1.5, [1.5], [True], [None], None, [[1]], ["constraint", 2.0]], ids=str)
def test_positions_are_indices_or_roles(model, positions):
    with pytest.raises(PromptError, match=r"^positions holds .*: use indices, whole numbers, or names of roles\.$"):
        resolve_positions(ask(model), positions)


def test_positions_of_any_integer_type(model):
    prompt = ask(model)
    for positions in (3, [3], np.array([3]), torch.tensor([3]), range(3, 4), {3}, np.int64(3)):
        assert resolve_positions(prompt, positions) == (3,)


@pytest.mark.parametrize("n", [0, -1, 2.5, True, "3"])
def test_the_length_of_an_answer_is_a_whole_number(model, n):
    with pytest.raises(PromptError, match="max_new_tokens must be a whole number, at least 1, not"):
        model.generate_answer(None, QUESTION, max_new_tokens=n)


@pytest.mark.parametrize("value", [None, 7, b"this country", ["this country"], np.zeros((9, 9))], ids=str)
def test_what_is_no_text_is_refused(model, value):
    cases = {
        "question": lambda: ask(model, value), "visual_constraint": lambda: ask(model, constraint=value),
        "visual_replacement": lambda: corrupt(model, ask(model), visual_replacement=value),
    }
    for name, case in cases.items():
        if name == "visual_replacement" and value is None:  # not given
            continue
        with pytest.raises(PromptError, match=rf"^{name} must be a text, not .*\.$"):
            case()
