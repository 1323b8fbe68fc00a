"""What is asked before the first item, on the real server."""

import importlib.metadata

import asked
import pytest
import torch

from interventions import AttentionError, attention_contributions, load_model
from interventions.models import server as preflight


def test_the_answers(kind, here):
    model = load_model("mini", remote=True)
    server = model.server
    assert server.sandboxed == (kind == "sandboxed")
    assert (server.dtype, server.device, server.attention) == (torch.float32, "cpu", "sdpa")
    assert model.dtype == torch.float32 and model.attention == "sdpa"
    assert server.versions["nnsight"] == importlib.metadata.version("nnsight")
    assert model.key() == here.key() | {"remote": True}  # nothing stored of one is taken for the other's
    topics = [answer.partition(":")[0] for answer in server.answers]
    assert topics == ["Server", "Key", "Versions", "Model", "Code"]
    assert all(answer.endswith(".") and "\n" not in answer for answer in server.answers)
    assert server.host in server.answers[0]
    assert "the same there" in server.answers[2]
    assert ("sandbox" in server.answers[4]) == server.sandboxed


def test_versions_that_differ_are_told(trusted, monkeypatch):
    skeleton = load_model("mini", remote=True).traced
    monkeypatch.setattr(preflight.importlib.metadata, "version", lambda name: "0.0.1")
    answers = preflight.preflight(skeleton, "mini").answers
    assert "torch is 0.0.1 here and 2.13.0 there" in answers[2]


def test_the_models_state_is_told(trusted):
    load_model("mini", remote=True)
    assert "'mini' was running" in load_model("mini", remote=True).server.answers[3]


def test_a_model_in_fewer_bits_is_recognised(trusted, here, monkeypatch):
    """Its activations do not tell: the server's list of deployments does (here made to say so: none runs on a CPU)."""
    told = preflight._deployments
    monkeypatch.setattr(preflight, "_deployments", lambda lm: [entry | {"dtype": "nf4"} for entry in told(lm)])
    model = load_model("mini", remote=True)
    assert model.server.quantization == model.quantization == model.key()["quantization"] == "nf4"
    assert model.server.as_dict()["quantization"] == "nf4" and "from nf4 weights" in model.server.answers[3]
    prompt, _ = asked.both_prompts(here, asked.items(1)[0])
    with pytest.raises(AttentionError, match="nf4 weights, and contributions need W_o itself"):
        attention_contributions(model, prompt)
