"""Many interventions in one forward: segments kept apart by a block mask, as many as the memory takes.

A *segment* is the positions from the intervened one on. Memory is set by the packing budget, not by the number of
sites. As all of `forward.py`, what is here runs where the weights are: plain functions and tensors only.

Shapes: t tokens of a suffix, d hidden size.
"""

import os

import torch

# Tokens a packed forward: fewer pay overhead, more attend to each other's masked keys.
CPU_PACKED_TOKENS = 300  # measured on two cores: flat from 200 to 600
GPU_PACKED_TOKENS = 2048  # measured on an H200: flat from 2048 to 8192
MEMINFO = "/proc/meminfo"  # Linux only


def packed_inputs(hidden, first: int, begins, ends):
    """Segments [begin, end) of hidden [1, t, d] (position `first` on) as one sequence behind a shared cache.

    The cache must hold max(begins) positions. A token sees those before its segment's begin, and its own
    segment up to itself. The mask is an additive float: eager attention would silently *add* a boolean one.
    Returns the model's inputs and the offset of each segment in the sequence.
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
        "position_ids": positions[None],
        "attention_mask": mask[None, None],
    }
    return inputs, offsets.tolist()


def packing_budget(lm, n_keys: int, like: torch.Tensor) -> int:
    """Packed tokens a forward: a device-dependent best, less where a quarter of the free memory holds fewer.

    A token costs activations, keys and values in all layers, and (eager) a row of scores in every head; like: hidden
    states, which are of the type and on the device of those.
    """
    config = lm._module.config.get_text_config()
    best = GPU_PACKED_TOKENS if like.is_cuda else CPU_PACKED_TOKENS
    size = like.dtype.itemsize
    activations = size * (8 * config.hidden_size + 3 * config.intermediate_size)
    scores = (4 + 2 * size) * config.num_attention_heads * (n_keys + best)
    return max(1, min(best, free_bytes(like.device) // 4 // (activations + scores + cache_bytes(lm, size))))


def cached_tokens_that_fit(lm, like: torch.Tensor) -> int:
    """Tokens whose keys and values fill a quarter of the free memory; like: as for `packing_budget`."""
    return free_bytes(like.device) // 4 // cache_bytes(lm, like.dtype.itemsize)


def cache_bytes(lm, size: int) -> int:
    """Bytes of one token's keys and values in all layers, at `size` bytes a number."""
    config = lm._module.config.get_text_config()
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * head * size


def free_bytes(device) -> int:
    """Free memory of the device the weights are on; what torch holds in reserve on a GPU is free, too."""
    if device.type == "cuda":
        reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserve
    if os.path.exists(MEMINFO):  # what the kernel would give back counts, file caches above all
        with open(MEMINFO) as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    return os.sysconf("SC_PHYS_PAGES") // 2 * os.sysconf("SC_PAGE_SIZE")  # macOS: not told, so a guess
