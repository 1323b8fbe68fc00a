"""An edit as a small thing: low-rank changes of W_proj in some layers, to be applied, stacked, saved and exported.

Applying does not touch the weights: the edited model is another view of them, in which nnsight adds the low-rank term
at every forward, and so at every generated token. Who has the old view has the old model; that is all of
reverting. `edit_export.merged` writes it into a copy of the weights, for what needs to skip edited layers (tracing).
"""

from __future__ import annotations

import copy
import hashlib
import json
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import safetensors.torch
import torch
from nnsight.intervention.iterator import Iterations
from safetensors import SafetensorError, safe_open

from ..errors import EditError
from ..files import write_atomically
from ..models.model import VisionLanguageModel

FORMAT = "interventions.edit/1"
# nnsight's open loop over generated tokens ends with the generation, and says so every time.
warnings.filterwarnings("ignore", message=r".*\.mlp\.\w+\.input\.i\d+' was never reached")


@dataclass(frozen=True)
class Fact:
    """What was edited: the question, the answer it should have, and the test bed's item, if it has one.

    p_before, p_target: P(target) before, and with the optimised value: one that was not found is an edit that fails.
    """

    question: str
    target: str
    item: str = ""
    p_before: float | None = None
    p_target: float | None = None


@dataclass(frozen=True)
class Edit:
    """W_proj + A B in each layer of `factors`: {layer: (A [d, r], B [r, m])}, float32 on the CPU.

    model, revision, dtype: what it was made for; weights: a digest of each layer's W_proj (empty if they were on a
    server): the edit fits no other; lam: the lambda of Eq. 7; facts: what it changes; behind: the `identity` of each
    edit that was in force when it was made, and that it needs.
    """

    factors: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(repr=False)
    model: str
    revision: str
    dtype: str
    weights: dict[int, str] = field(repr=False)
    lam: float
    facts: tuple[Fact, ...]
    behind: tuple[str, ...] = ()

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that it changes, in ascending order."""
        return tuple(sorted(self.factors))

    @property
    def rank(self) -> int:
        """The largest rank of any layer's change."""
        return max(a.shape[1] for a, _ in self.factors.values())

    @cached_property
    def identity(self) -> str:
        """A digest of the change itself, for what is stored about the edited model."""
        told = "".join(f"{layer} {digest(factor)}" for layer in self.layers for factor in self.factors[layer])
        return hashlib.sha256(told.encode()).hexdigest()

    def change(self, layer: int) -> torch.Tensor:
        """A B [d, m] of one layer."""
        a, b = self.factors[layer]
        return a @ b

    def check(self, model: VisionLanguageModel) -> None:
        """Raises EditError unless it was made for this model's weights."""
        made_for = f"this edit was made for {self.model!r} (revision {self.revision[:12]})"
        for layer, (a, b) in self.factors.items():
            if layer >= model.n_layers:
                raise EditError(f"{made_for}, whose layer {layer} model {model.name!r} lacks: load it into that model.")
            linear = w_proj(model, layer)
            weight, here = linear.weight, (linear.out_features, linear.in_features)  # quantised, W has another shape
            if here != (a.shape[0], b.shape[1]):
                raise EditError(
                    f"{made_for} with W_proj of {a.shape[0]} x {b.shape[1]}, but {model.name!r} has "
                    f"{here[0]} x {here[1]}: load it into that model."
                )
            if str(model.dtype) != self.dtype:
                raise EditError(
                    f"{made_for} in {self.dtype}, and {model.name!r} is {model.dtype}: load the model in that type."
                )
            # Weights that are on a server alone have no bytes here; their revision stands for them.
            no_bytes = weight.is_meta or not self.weights[layer]
            same = self.revision == model.revision if no_bytes else self.weights[layer] == digest(weight)
            if not same:
                raise EditError(
                    f"{made_for}, whose weights differ from those of {model.name!r}: load it into that model."
                )

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file: the factors, and everything else as its metadata."""
        path = Path(path)
        told = {
            "format": FORMAT, "model": self.model, "revision": self.revision, "dtype": self.dtype, "lam": self.lam,
            "weights": {str(layer): name for layer, name in self.weights.items()},
            "facts": [asdict(fact) for fact in self.facts], "behind": list(self.behind),
        }
        tensors = {f"{layer}.{name}": factor.contiguous() for layer in self.layers
                   for name, factor in zip("ab", self.factors[layer], strict=True)}
        metadata = {"edit": json.dumps(told)}
        write_atomically(path, lambda temporary: safetensors.torch.save_file(tensors, temporary, metadata=metadata))
        return path


def load_edit(path: str | Path, model: VisionLanguageModel) -> Edit:
    """Read an edit and check that it is one of this model; EditError if not, or if the file is none."""
    try:
        with safe_open(path, framework="pt") as file:
            told = json.loads((file.metadata() or {}).get("edit", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise EditError(f"path {str(path)!r} cannot be read ({error}): name a file that Edit.save wrote.") from error
    if told.get("format") != FORMAT:
        raise EditError(f"path {str(path)!r} holds no edit of the format {FORMAT!r}: name one that Edit.save wrote.")
    try:
        edit = Edit(
            factors={int(layer): (tensors[f"{layer}.a"], tensors[f"{layer}.b"]) for layer in told["weights"]},
            model=told["model"], revision=told["revision"], dtype=told["dtype"], lam=told["lam"],
            weights={int(layer): name for layer, name in told["weights"].items()},
            facts=tuple(Fact(**fact) for fact in told["facts"]), behind=tuple(told["behind"]),
        )
        finite = all(factor.isfinite().all() for factors in edit.factors.values() for factor in factors)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EditError(f"path {str(path)!r} is damaged ({error!r}): make the edit again.") from error
    if not finite:
        raise EditError(f"path {str(path)!r} holds numbers that are not finite: make the edit again.")
    edit.check(model)
    return edit


def apply_edits(model: VisionLanguageModel, edits: Iterable[Edit]) -> VisionLanguageModel:
    """The model with these edits in force, in every forward and generated token; the model given stays as it is.

    They add up, so their order does not matter; edits that the model has already stay. What skips layers (`trace`,
    `attention_knockout`) needs the `merged` model instead, and says so. Raises EditError.
    """
    edits = with_edits(model, edits)
    edited = copy.copy(model)
    edited.edits, edited.unedited = edits, model.unedited or model
    edited.traced = with_terms(edited.unedited.traced, stacked(edits)) if edits else model.traced
    return edited


def with_edits(model: VisionLanguageModel, edits: Iterable[Edit]) -> tuple[Edit, ...]:
    """The model's edits and these; raises EditError if one of these does not fit, or needs another that is missing."""
    edits = edits if isinstance(edits, Edit) else tuple(edits)
    if isinstance(edits, Edit) or not all(isinstance(edit, Edit) for edit in edits):
        raise EditError("edits must be a list of Edit: write [edit], and read files with load_edit.")
    for edit in edits:
        edit.check(model)
    together = (*model.edits, *edits)
    known = {edit.identity for edit in together}
    for edit in edits:
        if not known.issuperset(edit.behind):
            raise EditError(
                f"edits has one that was made on a model with {len(edit.behind)} others in force, which are missing: "
                "give them too."
            )
    return together


def stacked(edits: Iterable[Edit]) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    """The factors of several edits together, by layer."""
    parts: dict[int, list] = {}
    for edit in edits:
        for layer, factors in edit.factors.items():
            parts.setdefault(layer, []).append(factors)
    return {
        layer: (torch.cat([a for a, _ in found], dim=1), torch.cat([b for _, b in found]))
        for layer, found in sorted(parts.items())
    }


def with_terms(lm, factors: dict):
    """nnsight's view of the model in which W_proj's output has the term A B k added, at every forward."""
    with lm.edit() as (_, edited):
        for _ in Iterations()[:]:
            for layer, (a, b) in factors.items():
                module = edited.layers[layer].mlp.down_proj
                key = module.input
                output = module.output
                module.output = output + (key @ b.to(key).T) @ a.to(key).T
    edited.edited_layers = tuple(factors)  # see `forward.refuse_unreached_edits`
    return edited


def w_proj_path(model: VisionLanguageModel, layer: int) -> str:
    """The name of W_proj of a layer among the Hugging Face modules."""
    return f"{model.family.language_model}.layers.{layer}.mlp.{model.family.w_proj}"


def w_proj(model: VisionLanguageModel, layer: int) -> torch.nn.Linear:
    """W_proj of a layer, the Hugging Face module."""
    return model.module.get_submodule(w_proj_path(model, layer))


def digest(weight: torch.Tensor) -> str:
    """What identifies a weight: a sha256 of its type and bytes."""
    data = weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(str(weight.dtype).encode() + data.tobytes()).hexdigest()
