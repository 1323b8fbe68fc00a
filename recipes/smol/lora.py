"""Low-rank adapters on all linear layers of a language model, and the projector of the pictures."""

import math

import torch
from torch import nn

from interventions.models.pretrained import LORA_SCALE
from recipes.mini.build import VISION_WIDTH

RANK = 16


class LowRank(nn.Module):
    """A frozen linear layer plus `LORA_SCALE` * B A x."""

    def __init__(self, base: nn.Linear):
        super().__init__()
        self.base = base
        self.A = nn.Parameter(torch.randn(RANK, base.in_features) / math.sqrt(base.in_features))
        self.B = nn.Parameter(torch.zeros(base.out_features, RANK))

    def forward(self, x):
        return self.base(x) + LORA_SCALE * ((x @ self.A.t().to(x.dtype)) @ self.B.t().to(x.dtype))


def add_adapters(language_model) -> dict[str, LowRank]:
    """Wrap all linear layers of the decoder; returns the adapters by the name of the layer they wrap."""
    names = [name for name, module in language_model.model.named_modules() if isinstance(module, nn.Linear)]
    adapters = {}
    for name in names:
        parent, _, leaf = name.rpartition(".")
        parent = language_model.model.get_submodule(parent)
        adapters[name] = LowRank(getattr(parent, leaf))
        setattr(parent, leaf, adapters[name])
    return adapters


def make_projector(width: int) -> nn.Sequential:
    """Return LLaVA's two-layer projector, from the vision tower's width to the language model's."""
    return nn.Sequential(nn.Linear(VISION_WIDTH, width), nn.GELU(), nn.Linear(width, width))
