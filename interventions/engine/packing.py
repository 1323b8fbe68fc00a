"""Many interventions in one forward: segments kept apart by a block mask, as many as the memory takes.

A *segment* is the positions from the intervened one on. Memory is set by the packing budget, not by the number of
sites. As all of `forward.py`, what is here runs where the weights are: plain functions and tensors only.

Shapes: t tokens of a suffix, d hidden size.
"""

import os
from pathlib import PurePosixPath

import psutil
import torch

from .forward import positions_at

# Tokens a packed forward: fewer pay overhead, more attend to each other's masked keys.
CPU_PACKED_TOKENS = 300  # measured on two cores: flat from 200 to 600
GPU_PACKED_TOKENS = 2048  # measured on an H200: flat from 2048 to 8192
CGROUP_OF, CGROUPS = "/proc/self/cgroup", "/sys/fs/cgroup"  # Linux only


def packed_inputs(hidden, table, first: int, begins, ends):
    """Segments [begin, end) of hidden [1, t, d] (position `first` on) as one sequence behind a shared cache.

    table: positions of the whole sequence, see `forward.positions_at`.

    The cache must hold max(begins) positions. A token sees those before its segment's begin, and its own
    segment up to itself. The mask is an additive float: eager attention would silently *add* a boolean one.
    Returns the model's inputs, the offset of each segment in the sequence, and the place of each token [n] in the
    whole sequence.
    """
    begins, lengths = torch.tensor(begins), torch.tensor(ends) - torch.tensor(begins)
    offsets = lengths.cumsum(0) - lengths
    segment = torch.arange(len(begins)).repeat_interleave(lengths)
    positions = torch.arange(len(segment)) - (offsets - begins)[segment]
    segment, begin, where = (tensor.to(hidden.device) for tensor in (segment, begins[segment], positions))
    sees_cached = torch.arange(int(begins.max()), device=hidden.device)[None] < begin[:, None]
    sees_packed = (segment[:, None] == segment[None]) & (where[None] <= where[:, None])
    sees = torch.cat([sees_cached, sees_packed], dim=1)
    mask = torch.zeros_like(sees, dtype=hidden.dtype).masked_fill_(~sees, torch.finfo(hidden.dtype).min)
    inputs = {
        "inputs_embeds": hidden[:, where - first],
        "position_ids": positions_at(table, positions),
        "attention_mask": mask[None, None],
    }
    return inputs, offsets.tolist(), positions


def budget(lm, request: dict, end: int, like: torch.Tensor) -> int:
    """Packed tokens a forward: the request's max_packed_tokens, or what suits the device and its free memory.

    end: length of the whole sequence; like: hidden states, whose type and device are those of all that is packed.
    """
    return request["max_packed_tokens"] or packing_budget(lm, end, like)


def rows_that_fit(lm, request: dict, end: int, like: torch.Tensor) -> int:
    """Batch rows a forward, each from the request's `first` to `end`; like: as for `budget`."""
    tokens, cached = budget(lm, request, end, like), cache_bytes(lm, like.dtype.itemsize)
    return batch_rows(tokens, end - request["first"], end, cached, free_bytes(like.device))


def packing_budget(lm, n_keys: int, like: torch.Tensor) -> int:
    """`packed_tokens` of a model on the device that `like` is on, in its type."""
    config = lm._module.config.get_text_config()
    best, size = GPU_PACKED_TOKENS if like.is_cuda else CPU_PACKED_TOKENS, like.dtype.itemsize
    numbers = activations(config.hidden_size, config.intermediate_size)
    cached, free = cache_bytes(lm, size), free_bytes(like.device)
    return packed_tokens(best, n_keys, size, numbers, config.num_attention_heads, cached, free)


def packed_tokens(best: int, n_keys: int, size: int, numbers: int, heads: int, cached: int, free: float) -> int:
    """Packed tokens a forward: `best`, or what a quarter of `free` bytes holds, if that is less.

    A token costs activations (so many `numbers` of `size` bytes), `cached` bytes of keys and values in all layers, and
    (eager) a row of scores in every head, for `n_keys` and the packed tokens themselves.
    """
    scores = (4 + 2 * size) * heads * (n_keys + best)
    return max(1, min(best, int(free) // 4 // (size * numbers + scores + cached)))


def batch_rows(tokens: int, length: int, end: int, cached: int, free: float) -> int:
    """Rows of `length` tokens a forward: at most so many `tokens`, and keys and values in a quarter of `free` bytes.

    end: tokens whose keys and values a row holds, `cached` bytes each.
    """
    return max(1, min(tokens // length, int(free) // 4 // cached // end))


def activations(width: int, ffn: int) -> int:
    """Numbers that one token's way through a layer makes, by an estimate; width, ffn: of hidden states and the MLP."""
    return 8 * width + 3 * ffn


def cache_bytes(lm, size: int) -> int:
    """Bytes of one token's keys and values in all layers, at `size` bytes a number."""
    config = lm._module.config.get_text_config()
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * head * size


def free_bytes(device) -> int:
    """Return the free memory of a device, in bytes; what torch holds in reserve on a GPU is free, too."""
    if device.type == "cuda":
        reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserve
    return max(0, int(min(psutil.virtual_memory().available, container_bytes())))


def container_bytes() -> float:
    """Free memory under the limits of this process's control groups (a container's, a job's); infinite without one.

    psutil reports the memory of the whole machine inside a container.
    """
    free = float("inf")
    for line in read_if_exists(CGROUP_OF).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            root, names = CGROUPS, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root = f"{CGROUPS}/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        for group in (path, *map(str, PurePosixPath(path).parents)):  # the limits of the groups above count, too
            free = min(free, group_bytes(f"{root}{group}", *names))
    return free


def group_bytes(folder: str, limit: str, usage: str, cache: str) -> float:
    """Bytes that a control group may still take, with the file caches that it gives back; infinite without a limit."""
    most, used = read_if_exists(f"{folder}/{limit}").strip(), read_if_exists(f"{folder}/{usage}")
    if not most.isdecimal() or not used:  # "max", or no such group
        return float("inf")
    statistics = read_if_exists(f"{folder}/memory.stat").splitlines()
    return int(most) - int(used) + sum(int(line.split()[1]) for line in statistics if line.startswith(f"{cache} "))


def read_if_exists(path: str) -> str:
    if not os.path.exists(path):
        return ""
    with open(path) as file:
        return file.read()


def packs(sites, costs, budget: int) -> list[list[int]]:
    """Sites, as indices, in even packs of one start layer, each within the budget (or a single site)."""
    groups = []
    for start in sorted({site[2] for site in sites}):
        members = sorted((i for i, site in enumerate(sites) if site[2] == start), key=lambda i: costs[i])
        n = -(-sum(costs[i] for i in members) // budget)
        while n < len(members) and max(sum(costs[i] for i in members[k::n]) for k in range(n)) > budget:
            n += 1
        groups += [members[k::n] for k in range(min(n, len(members)))]
    return groups
