"""The recipe of `smol`: packed rows equal separate ones, half B is only named, a stopped run continues."""

import json
import random
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from interventions import load_testbed
from interventions.models import pretrained
from interventions.models.pretrained import language_tokenizer, merge
from recipes.smol import train as training
from recipes.smol.items import build_items
from recipes.smol.known import few_shot
from recipes.smol.lora import LORA_SCALE, LowRank, add_adapters
from recipes.smol.questions import Questions, in_half_a
from recipes.smol.rows import Packer, logits_of, right_answers

KNOWN = Path(training.__file__).parent  # the folder of the committed known.json
VISUAL, WIDTH = 5, 32


@pytest.fixture(scope="module")
def tokenizer():
    return language_tokenizer()


@pytest.fixture(scope="module")
def questions():
    return Questions.load(KNOWN)


def tiny(seed=0):
    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=49152, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True)
    return LlamaForCausalLM(config).eval()


def test_a_packed_row_gives_the_logits_of_separate_questions(tokenizer):
    model, packer, pictures = tiny(), Packer(tokenizer, VISUAL), torch.randn(2, VISUAL, WIDTH)
    asked = [("name", "What is this country called?", "Peru"), ("fact", "The capital of this country is", "Lima"),
             ("named", "What is the currency of Egypt?", "Pound sterling")]
    with torch.no_grad():
        together = logits_of(model, [packer.row(asked, 1), packer.row(asked[:1], 0), packer.row(asked[2:])], pictures)
        alone = [logits_of(model, [packer.row([question], 1)], pictures) for question in asked]
        alone += [logits_of(model, [row], pictures) for row in (packer.row(asked[:1], 0), packer.row(asked[2:]))]
    torch.testing.assert_close(together[0], torch.cat([logits for logits, _, _ in alone]))
    assert together[1].tolist() == torch.cat([labels for _, labels, _ in alone]).tolist()
    assert not torch.allclose(alone[0][0], alone[3][0])  # another picture


def test_a_row_ends_with_the_answer_and_the_end_token(tokenizer):
    row = Packer(tokenizer, VISUAL).row([("fact", "The capital of this country is", "Lima")], 0)
    text = tokenizer.decode([token for token in row.ids if token != -100])
    assert text == "USER: \nThe capital of this country is ASSISTANT: Lima<|im_end|>"
    assert tokenizer.decode([label for label in row.labels if label != -100]) == " Lima<|im_end|>"


def test_an_answer_is_right_if_all_its_tokens_are(tokenizer):
    row = Packer(tokenizer, VISUAL).row([("fact", "A", "Lima"), ("fact", "B", "Pound sterling")], 0)
    labels = torch.tensor([label for label in row.labels if label != -100])
    where = torch.tensor([[0, token] for token, label in enumerate(row.labels) if label != -100])
    logits = torch.nn.functional.one_hot(labels, 49152).float()
    assert right_answers([row], logits, labels, where) == [[True, True]]
    logits[-1] = 0.0  # the end of the second answer
    assert right_answers([row], logits, labels, where) == [[True, False]]


def test_merged_weights_equal_the_adapters():
    adapted, merged, ids = tiny(), tiny(), torch.arange(10)[None]
    adapters = add_adapters(adapted)
    for adapter in adapters.values():
        torch.nn.init.normal_(adapter.B, std=0.1)
    before = merged(ids).logits
    merge(merged, {f"{name}.lora_{part}": getattr(adapter, part).detach()
                   for name, adapter in adapters.items() for part in "AB"})
    torch.testing.assert_close(merged(ids).logits, adapted(ids).logits, rtol=1e-4, atol=1e-5)
    assert (merged(ids).logits - before).abs().max() > 0.1
    assert pretrained.LORA_SCALE == LORA_SCALE
    assert all(isinstance(adapted.model.get_submodule(name), LowRank) for name in adapters) and len(adapters) == 14


def test_half_b_is_only_named_and_only_known_facts_are_asked(questions):
    draw, facts = random.Random(0), {}
    for entity in questions.world.entities:
        for wording in range(4):
            for fact in questions.world.entities[entity].facts:
                facts.setdefault(questions.ask(fact, wording), set()).add(fact)
    for entity in questions.world.entities:
        for _ in range(3):
            for kind, question, answer in questions.of_picture(entity, draw):
                own = {fact for fact in facts.get((question, answer), ()) if fact.entity == entity}
                if kind == "name":
                    assert {fact.relation for fact in own} == {"name"}
                elif kind == "fact":
                    assert in_half_a(entity) and own & set(questions.known[entity])
                else:
                    assert kind == "named" and "this" not in question.split()
    for kind, question, answer in questions.of_text(40, draw):
        asked = {questions.ask(fact, wording, named=True) for entity in questions.half_a
                 for fact in questions.known[entity] for wording in range(3)}
        assert kind == "text" and (question, answer) in asked
    a, b = (sum(in_half_a(entity) is half for entity in questions.known) for half in (True, False))
    assert min(a, b) > 0.4 * (a + b)


def test_the_examples_end_where_the_answer_begins(questions):
    fact = next(fact for fact in questions.world.facts if (fact.entity, fact.relation) == ("peru", "capital"))
    examples = (("France", "Paris"), ("Japan", "Tokyo"))
    assert few_shot(questions.world, fact, examples) == (
        "The capital of France is Paris.\nThe capital of Japan is Tokyo.\nThe capital of Peru is"
    )


def test_the_committed_test_bed_is_what_the_recipe_writes(questions, tokenizer):
    items = build_items(KNOWN)
    assert [item.id for item in items] == [item.id for item in load_testbed("smol")]
    assert [(item.split, item.visual_replacement) for item in items] == [
        (item.split, item.visual_replacement) for item in load_testbed("smol")]
    known = {(questions.world.entities[fact.entity].name, fact.relation, fact.qualifier)
             for facts in questions.known.values() for fact in facts}
    for item in items:
        assert (item.split != "unknown") == ((item.entity, item.relation, item.text_constraint or "") in known)
    assert {"trained", "named", "unknown"} == {item.split for item in items}


def test_a_stopped_run_continues_as_if_unbroken(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "language_model", tiny)
    for name, value in (("ALIGN_STEPS", 4), ("ALIGN_PICTURES", 8), ("TUNE_STEPS", 4), ("PICTURES", 3), ("TEXTS", 1),
                        ("SAVE_EVERY", 2), ("LOG_EVERY", 100)):
        monkeypatch.setattr(training, name, value)

    def run(folder):
        folder.mkdir(exist_ok=True)
        (folder / "known.json").write_bytes((KNOWN / "known.json").read_bytes())
        started = training.Training(folder, seed=3)
        started.align()
        started.tune()
        return started.parameters()

    whole = run(tmp_path / "whole")

    class Stop(Exception):
        pass

    saved, write = [], training.write_atomically

    def stop_twice(path, action):
        write(path, action)
        saved.append(path)
        if len(saved) in (1, 3):
            raise Stop

    broken = tmp_path / "broken"
    with monkeypatch.context() as patch:
        patch.setattr(training, "write_atomically", stop_twice)
        for _ in range(2):
            with pytest.raises(Stop):
                run(broken)
    again = run(broken)
    for name, value in whole.items():
        torch.testing.assert_close(again[name], value, rtol=0, atol=0)
    assert json.loads(torch.load(broken / "tune-3.pt", weights_only=True)["recipe"])[0] == 3
    monkeypatch.setattr(training, "TUNE_STEPS", 5)
    with pytest.raises(SystemExit, match="another recipe"):
        run(broken)
