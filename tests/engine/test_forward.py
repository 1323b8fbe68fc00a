"""The machinery below the trace: each shortcut equals the forward it stands for."""

import os
from types import SimpleNamespace

import pytest
import tiny
import torch
from transformers import DynamicCache

from interventions.attention.contributions import read_contributions
from interventions.engine import forward, packing
from interventions.engine.runs import prompt_request
from interventions.prompts.prompt import build_prompt
from interventions.tracing import restoration


@pytest.fixture(
    scope="module",
    params=[("llama", "clip", "sdpa"), ("phi", "siglip", "eager"), ("gqa", None, "eager")],
    ids=str,
)
def recorded(request):
    """A model, a prompt, and the plain forward of it: hidden states, cache, logits."""
    model = tiny.build(*request.param)
    image = tiny.picture() if model.is_multimodal else None
    prompt = build_prompt(model, "The capital of this country is", image, visual_constraint="this country")
    cache = DynamicCache()
    with torch.no_grad():
        inputs = forward.prompt_inputs(prompt.input_ids[None], prompt.position_ids, prompt.image_inputs)
        record = forward.run(
            model.traced,
            inputs,
            keep=range(len(prompt)),
            cache=cache,
            reads=forward.Reads(
                "hidden", "embeddings", "mlp", "attention", "cache", embed=prompt.input_ids[None]
            ),
        )
        assert record["cache"] is cache  # here; in a sandbox it is a copy
        expected = model.module(**inputs, output_hidden_states=True)
    assert torch.equal(record["logits"], expected.logits)
    for ours, theirs in zip(record["hidden"][:-1], expected.hidden_states[:-1], strict=True):
        assert torch.equal(ours, theirs)
    return model, prompt, record, cache


def test_embeddings_are_those_the_decoder_reads(recorded):
    _, prompt, record, _ = recorded
    visual = record["embeddings"][0, list(prompt.visual)]
    text = [i for i in range(len(prompt)) if i not in prompt.visual]
    assert torch.equal(record["embedded"][:, text], record["embeddings"][:, text])
    if len(visual):  # an image token's own, which the picture replaces
        assert not torch.equal(record["embedded"][0, list(prompt.visual)], visual)


@pytest.mark.parametrize("skip", [0, 2, 5])
@pytest.mark.parametrize("trim", [False, True])
@torch.no_grad()
def test_packed_segments_equal_the_whole_forward(recorded, skip, trim):
    """Segments with a shared cache, entering above skipped layers: the logits of the last token, every
    time."""
    model, prompt, record, cache = recorded
    n, first = len(prompt), 2
    begins = [n - 1, 4, n - 5, 4]
    hidden, table = record["hidden"][skip][:, first:], prompt.position_ids
    inputs, offsets, _ = packing.packed_inputs(hidden, table, first, begins, [n] * 4)
    assert inputs["attention_mask"].is_floating_point() and offsets == [0, 1, 1 + n - 4, 1 + n - 4 + 5]
    keep = torch.tensor([offset + n - 1 - begin for offset, begin in zip(offsets, begins, strict=True)])
    shared = forward.extend(cache, max(begins))
    logits = forward.run(model.traced, inputs, keep=keep, cache=shared, skip=skip, trim=trim)["logits"]
    assert logits.shape[1] == 4
    torch.testing.assert_close(logits, record["logits"][:, -1:].expand(-1, 4, -1), rtol=0, atol=1e-4)


@torch.no_grad()
def test_extending_a_cache_leaves_it_as_it_was(recorded):
    model, _, record, cache = recorded
    before = [(layer.keys.clone(), layer.values.clone()) for layer in cache.layers]
    rows = forward.extend(cache, 3, rows=2)
    assert rows.get_seq_length() == 3 and rows.layers[0].keys.shape[0] == 2
    inputs = {"inputs_embeds": record["embeddings"][:, 3:].expand(2, -1, -1)}
    logits = forward.run(model.traced, inputs, keep=[-1], cache=rows)["logits"]
    torch.testing.assert_close(logits, record["logits"][:, -1:].expand(2, -1, -1), rtol=0, atol=1e-4)
    for layer, (keys, values) in zip(cache.layers, before, strict=True):
        assert torch.equal(layer.keys, keys) and torch.equal(layer.values, values)


@torch.no_grad()
def test_stopping_below_a_layer(recorded):
    model, _, record, _ = recorded
    inputs = {"inputs_embeds": record["hidden"][1]}
    stopped = forward.run(model.traced, inputs, keep=[0], skip=1, stop=3)
    assert "logits" not in stopped
    torch.testing.assert_close(stopped["output"], record["hidden"][3], rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_write_is_seen_by_the_rest_of_the_forward(recorded):
    model, prompt, record, _ = recorded
    inputs = {"inputs_embeds": record["embeddings"]}
    index = torch.tensor([0]), torch.tensor([len(prompt) - 1])
    logits = {}
    for kind in ("mlp", "attention"):
        same = record[kind][2][0, -1:]
        unchanged = forward.run(model.traced, inputs, keep=[-1], writes={(2, kind): (*index, same)})["logits"]
        torch.testing.assert_close(unchanged, record["logits"][:, -1:], rtol=0, atol=1e-4)
        logits[kind] = forward.run(model.traced, inputs, keep=[-1], writes={(2, kind): (*index, 0 * same)})[
            "logits"
        ]
        assert (logits[kind] - unchanged).abs().max() > 0.1
    assert (logits["mlp"] - logits["attention"]).abs().max() > 0.1


def test_packs_are_even_complete_and_within_the_budget():
    sites = [(("mlp",), ((9, 9),), start, start + 1) for start in (0, 0, 0, 0, 0, 2, 1)]
    costs = [5, 3, 4, 5, 3, 30, 1]
    groups = restoration.packs(sites, costs, 10)
    assert sorted(index for group in groups for index in group) == list(range(7))
    assert all(len({sites[i][2] for i in group}) == 1 for group in groups)
    assert all(sum(costs[i] for i in group) <= 10 or len(group) == 1 for group in groups)
    assert [len(group) for group in restoration.packs(sites, [1] * 7, 4)] == [3, 2, 1, 1]


def test_free_memory_is_known_on_every_system(monkeypatch, tmp_path):
    """On a GPU torch's own reserve counts as free, else every trace shrinks the next."""
    every = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < packing.free_bytes(torch.device("cpu")) <= every
    monkeypatch.setattr(packing, "CGROUP_OF", str(tmp_path / "none"))  # as on macOS
    memory = SimpleNamespace(free=100, available=700)
    monkeypatch.setattr(packing.psutil, "virtual_memory", lambda: memory)
    assert packing.free_bytes(torch.device("cpu")) == 700  # more than what nothing uses at all
    for name, value in {"mem_get_info": (10, 100), "memory_reserved": 70, "memory_allocated": 20}.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert packing.free_bytes(torch.device("cuda")) == 60


GROUPS = {  # folder below /sys/fs/cgroup -> its files
    "version 2": ("0::/\n", {"": {
        "memory.max": 1000, "memory.current": 700, "memory.stat": "anon 5\ninactive_file 200\n"}}, 500),
    "version 2, nested": ("0::/pod/job\n", {
        "": {}, "pod": {"memory.max": 1000, "memory.current": 900, "memory.stat": "inactive_file 0\n"},
        "pod/job": {"memory.max": "max", "memory.current": 100},
    }, 100),
    "version 1": ("4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/x\n", {"memory": {
        "memory.limit_in_bytes": 1000, "memory.usage_in_bytes": 600,
        "memory.stat": "inactive_file 7\ntotal_inactive_file 100\n",
    }}, 500),
    "version 1, no limit": ("4:memory:/\n", {"memory": {
        "memory.limit_in_bytes": 9223372036854771712, "memory.usage_in_bytes": 600}}, 2000 * 1024),
    "no limit": ("0::/\n", {"": {"memory.max": "max", "memory.current": 100}}, 2000 * 1024),
    "over the limit": ("0::/\n", {"": {"memory.max": 100, "memory.current": 101}}, 0),
    "not mounted": ("0::/\n", {}, 2000 * 1024),
}


@pytest.mark.parametrize("case", GROUPS)
def test_the_limit_of_a_container_counts(monkeypatch, tmp_path, case):
    """In a container psutil reports the memory of the whole machine: what is packed by it is killed."""
    groups, folders, free = GROUPS[case]
    monkeypatch.setattr(packing.psutil, "virtual_memory", lambda: SimpleNamespace(available=2000 * 1024))
    (tmp_path / "cgroup").write_text(groups)
    for folder, files in folders.items():
        (tmp_path / "fs" / folder).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (tmp_path / "fs" / folder / name).write_text(f"{content}\n")
    for name, place in {"CGROUP_OF": "cgroup", "CGROUPS": "fs"}.items():
        monkeypatch.setattr(packing, name, str(tmp_path / place))
    assert packing.free_bytes(torch.device("cpu")) == free


def test_the_budget_is_small_where_memory_is(recorded, monkeypatch):
    model, _, record, _ = recorded
    asked = model.traced, 600, record["hidden"][0]
    assert packing.packing_budget(*asked) == packing.CPU_PACKED_TOKENS
    monkeypatch.setattr(packing, "free_bytes", lambda device: 4 * 50_000)
    assert 1 <= packing.packing_budget(*asked) < 10
    monkeypatch.setattr(packing, "free_bytes", lambda device: 0)
    assert packing.packing_budget(*asked) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_weight_that_is_elsewhere_is_read_by_what_it_does(dtype):
    """As in a sandbox: exact, and not spoilt by a bias that is large beside it."""
    torch.manual_seed(0)
    real = torch.nn.Linear(24, 16).to(dtype)
    with torch.no_grad():
        real.weight.normal_(0, 0.02)
        real.bias.normal_(0, 0.5)

    class Elsewhere:
        weight = real.weight.to("meta")

        def __call__(self, inputs):
            return real(inputs)

    read = forward.weight_of(Elsewhere(), torch.zeros(1, dtype=dtype))
    error = (read.float() - real.weight.float()).norm() / real.weight.float().norm()
    assert error < {torch.float32: 1e-6, torch.bfloat16: 1e-4, torch.float16: 2e-3}[dtype]
    assert forward.weight_of(real, torch.zeros(1, dtype=dtype)) is real.weight


def test_a_servers_autocast_changes_nothing(recorded):
    """NDIF computes under autocast where the model is in half precision; what is sent there undoes that."""
    model, prompt, _, _ = recorded
    request = prompt_request(prompt) | {
        "queries": (len(prompt) - 1,), "keys": tuple(range(len(prompt))), "layers": (0, 1), "also": (),
    }
    here = forward.in_session(model.traced, read_contributions, request)["norms"]
    with torch.autocast("cpu", torch.bfloat16):
        there = forward.in_session(model.traced, read_contributions, request)["norms"]
        changed = read_contributions(model.traced, request)["norms"]
    assert torch.equal(here, there) and not torch.allclose(here, changed, atol=1e-3)
