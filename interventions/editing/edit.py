"""An edit: low-rank changes of W_proj in some layers, which can be applied, stacked, saved, merged and exported.

`apply_edits` does not touch the weights. The edited model is another view of them, in which nnsight adds the low-rank
term at every forward pass, and so at every generated token. The old view is still the old model: nothing has to be
reverted. `merged` writes edits into a copy of the weights, for code that skips edited layers (`trace`).
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
# nnsight's open loop over generated tokens ends with the generation, and warns every time.
warnings.filterwarnings("ignore", message=r".*\.mlp\.\w+\.input\.i\d+' was never reached")


@dataclass(frozen=True)
class Fact:
    """What an edit changes.

    Attributes:
        question: the edited question.
        target: the answer that the model should give.
        item: the id of the test bed's item, if there is one.
        p_before: P(target) before the edit.
        p_target: P(target) with the optimized value. The edit fails if this is small.
    """

    question: str
    target: str
    item: str = ""
    p_before: float | None = None
    p_target: float | None = None


@dataclass(frozen=True)
class Edit:
    """W_proj + A B in each edited layer.

    Attributes:
        factors: layer -> (A [d, r], B [r, m]), float32 on the CPU.
        model, revision, dtype: the model that the edit was made for.
        weights: layer -> digest of its W_proj ("" if the weights were on a server). The edit fits no other weights.
        lam: the lambda of Eq. 7.
        facts: what the edit changes.
        requires: the `identity` of each edit that was in force when this one was made. This one needs them.
    """

    factors: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(repr=False)
    model: str
    revision: str
    dtype: str
    weights: dict[int, str] = field(repr=False)
    lam: float
    facts: tuple[Fact, ...]
    requires: tuple[str, ...] = ()

    @property
    def layers(self) -> tuple[int, ...]:
        """The edited layers, in ascending order."""
        return tuple(sorted(self.factors))

    @property
    def rank(self) -> int:
        """The largest rank of any layer's change."""
        return max(a.shape[1] for a, _ in self.factors.values())

    @cached_property
    def identity(self) -> str:
        """A digest of the factors, for the keys of tables about the edited model."""
        content = "".join(f"{layer} {digest(factor)}" for layer in self.layers for factor in self.factors[layer])
        return hashlib.sha256(content.encode()).hexdigest()

    def change(self, layer: int) -> torch.Tensor:
        """Return A B [d, m] of one layer."""
        a, b = self.factors[layer]
        return a @ b

    def check(self, model: VisionLanguageModel) -> None:
        """Raise EditError unless the edit was made for this model's weights."""
        made_for = f"this edit was made for {self.model!r} (revision {self.revision[:12]})"
        for layer, (a, b) in self.factors.items():
            if layer >= model.n_layers:
                raise EditError(f"{made_for}, but {model.name!r} has no layer {layer}: load it into that model.")
            linear = w_proj(model, layer)
            weight, shape = linear.weight, (linear.out_features, linear.in_features)  # quantized weights are packed
            if shape != (a.shape[0], b.shape[1]):
                raise EditError(
                    f"{made_for} with W_proj of {a.shape[0]} x {b.shape[1]}, but {model.name!r} has "
                    f"{shape[0]} x {shape[1]}: load it into that model."
                )
            if str(model.dtype) != self.dtype:
                raise EditError(
                    f"{made_for} in {self.dtype}, but {model.name!r} is {model.dtype}: load the model in that type."
                )
            # Weights that are only on a server have no bytes here; their revision stands for them.
            no_bytes = weight.is_meta or not self.weights[layer]
            if not (self.revision == model.revision if no_bytes else self.weights[layer] == digest(weight)):
                raise EditError(
                    f"{made_for}, whose weights differ from those of {model.name!r}: load it into that model."
                )

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file: the factors as tensors, everything else as metadata."""
        path = Path(path)
        content = {
            "format": FORMAT, "model": self.model, "revision": self.revision, "dtype": self.dtype, "lam": self.lam,
            "weights": {str(layer): name for layer, name in self.weights.items()},
            "facts": [asdict(fact) for fact in self.facts], "behind": list(self.requires),
        }
        tensors = {f"{layer}.{name}": factor.contiguous() for layer in self.layers
                   for name, factor in zip("ab", self.factors[layer], strict=True)}
        metadata = {"edit": json.dumps(content)}
        write_atomically(path, lambda temporary: safetensors.torch.save_file(tensors, temporary, metadata=metadata))
        return path


def load_edit(path: str | Path, model: VisionLanguageModel) -> Edit:
    """Read an edit from a file and check that it fits a model.

    Raises:
        EditError: the file is no edit, is damaged, or was made for other weights.
    """
    try:
        with safe_open(path, framework="pt") as file:
            content = json.loads((file.metadata() or {}).get("edit", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise EditError(f"path {str(path)!r} cannot be read ({error}): name a file that Edit.save wrote.") from error
    if content.get("format") != FORMAT:
        raise EditError(f"path {str(path)!r} holds no edit of the format {FORMAT!r}: name one that Edit.save wrote.")
    try:
        edit = Edit(
            factors={int(layer): (tensors[f"{layer}.a"], tensors[f"{layer}.b"]) for layer in content["weights"]},
            model=content["model"], revision=content["revision"], dtype=content["dtype"], lam=content["lam"],
            weights={int(layer): name for layer, name in content["weights"].items()},
            facts=tuple(Fact(**fact) for fact in content["facts"]), requires=tuple(content["behind"]),
        )
        finite = all(factor.isfinite().all() for factors in edit.factors.values() for factor in factors)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EditError(f"path {str(path)!r} is damaged ({error!r}): make the edit again.") from error
    if not finite:
        raise EditError(f"path {str(path)!r} holds numbers that are not finite: make the edit again.")
    edit.check(model)
    return edit


def apply_edits(model: VisionLanguageModel, edits: Iterable[Edit]) -> VisionLanguageModel:
    """Return a view of the model with edits in force, in every forward pass and generated token.

    Edits add up in any order. Edits that `model` already has stay in force, and `model` itself does not change.
    Functions that skip layers (`trace`, `attention_knockout`) refuse the view: give them the `merged` model.

    Raises:
        EditError: an edit does not fit the model, or needs another edit that is missing.
    """
    edits = _with_edits(model, edits)
    edited = copy.copy(model)
    edited.edits, edited.unedited = edits, model.unedited or model
    edited.traced = _with_terms(edited.unedited.traced, _stack(edits)) if edits else model.traced
    return edited


def merged(model: VisionLanguageModel, edits: Iterable[Edit] = ()) -> VisionLanguageModel:
    """Return a new model with the model's own edits and these written into a copy of W_proj.

    All other weights are shared with `model`.

    Raises:
        EditError: an edit does not fit, or the weights are quantized or on a server.
    """
    if model.device.type == "meta":
        raise EditError(f"model {model.name!r} has its weights on a server: use apply_edits, which leaves them there.")
    if model.quantization:
        raise EditError(
            f"model {model.name!r} has {model.quantization} weights, which cannot be changed: use apply_edits, or "
            "load it with dtype='bfloat16'."
        )
    factors, base = _stack(_with_edits(model, edits)), model.unedited or model
    edited = {id(w_proj(base, layer).weight) for layer in factors}
    weights = (*base.module.parameters(), *base.module.buffers())
    shared = {id(weight): weight for weight in weights if id(weight) not in edited}  # as deepcopy's memo
    module = copy.deepcopy(base.module, shared)
    result = VisionLanguageModel.from_module(module, base.processor, name=f"{base.name}, edited", prompt=base.prompt)
    with torch.no_grad():
        for layer, (a, b) in factors.items():
            weight = w_proj(result, layer).weight
            change = (a.to(weight.device) @ b.to(weight.device)).to(weight)
            weight += change
    return result


def export_peft(model: VisionLanguageModel, edits: Iterable[Edit], directory: str | Path) -> Path:
    """Write edits as one LoRA adapter, which `peft` loads onto the plain model.

    Args:
        model: the model. Its own edits are exported too.
        edits: further edits.
        directory: the folder of the adapter. Layers of a lower rank than the largest are padded with zeros.

    Raises:
        EditError: there are no edits, or one does not fit.
    """
    edits, directory = _with_edits(model, edits), Path(directory)
    if not edits:
        raise EditError("edits must not be empty: give the edits that the adapter is to have.")
    factors = _stack(edits)
    rank = max(a.shape[1] for a, _ in factors.values())
    paths = {layer: _w_proj_path(model, layer) for layer in factors}
    tensors = {}
    for layer, (a, b) in factors.items():
        name, padding = f"base_model.model.{paths[layer]}", rank - a.shape[1]
        tensors[f"{name}.lora_A.weight"] = torch.nn.functional.pad(b, (0, 0, 0, padding)).contiguous()
        tensors[f"{name}.lora_B.weight"] = torch.nn.functional.pad(a, (0, padding)).contiguous()
    write_atomically(
        directory / "adapter_model.safetensors",
        lambda path: safetensors.torch.save_file(tensors, path, metadata={"format": "pt"}),
    )
    config = {
        "peft_type": "LORA", "task_type": None, "base_model_name_or_path": model.name, "r": rank, "lora_alpha": rank,
        "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False, "inference_mode": True,
        "target_modules": list(paths.values()),
    }
    text = json.dumps(config, indent=1) + "\n"
    # Written last: a folder without it is no adapter.
    write_atomically(directory / "adapter_config.json", lambda path: path.write_text(text))
    return directory


def w_proj(model: VisionLanguageModel, layer: int) -> torch.nn.Linear:
    """Return W_proj of a layer, the Hugging Face module."""
    return model.module.get_submodule(_w_proj_path(model, layer))  # pyright: ignore[reportReturnType]


def digest(weight: torch.Tensor) -> str:
    """Return the SHA-256 digest of a tensor's type and bytes."""
    data = weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(str(weight.dtype).encode() + data.tobytes()).hexdigest()


def _with_edits(model: VisionLanguageModel, edits: Iterable[Edit]) -> tuple[Edit, ...]:
    """The model's edits and these. Raises EditError if one of these does not fit, or needs one that is missing."""
    edits = edits if isinstance(edits, Edit) else tuple(edits)
    if isinstance(edits, Edit) or not all(isinstance(edit, Edit) for edit in edits):
        raise EditError("edits must be a list of Edit: write [edit], and read files with load_edit.")
    for edit in edits:
        edit.check(model)
    together = (*model.edits, *edits)
    known = {edit.identity for edit in together}
    for edit in edits:
        if not known.issuperset(edit.requires):
            raise EditError(
                f"edits has one that was made on a model with {len(edit.requires)} others in force, which are missing: "
                "give them too."
            )
    return together


def _stack(edits: Iterable[Edit]) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    """The factors of several edits together, by layer."""
    parts: dict[int, list] = {}
    for edit in edits:
        for layer, factors in edit.factors.items():
            parts.setdefault(layer, []).append(factors)
    return {
        layer: (torch.cat([a for a, _ in factors], dim=1), torch.cat([b for _, b in factors]))
        for layer, factors in sorted(parts.items())
    }


def _with_terms(lm, factors: dict):
    """nnsight's view of the model in which W_proj's output has the term A B k added, at every forward pass."""
    with lm.edit() as (_, edited):
        for _ in Iterations()[:]:
            for layer, (a, b) in factors.items():
                module = edited.layers[layer].mlp.down_proj
                key = module.input
                output = module.output
                module.output = output + (key @ b.to(key).T) @ a.to(key).T
    edited.edited_layers = tuple(factors)  # see `forward.refuse_unreached_edits`
    return edited


def _w_proj_path(model: VisionLanguageModel, layer: int) -> str:
    """The name of W_proj of a layer among the Hugging Face modules."""
    return f"{model.family.language_model}.layers.{layer}.mlp.{model.family.w_proj}"
