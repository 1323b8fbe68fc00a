"""MultEdit (paper, section 5): correct or insert facts by a low-rank change of W_proj in one layer or a few.

Two steps. First the *value*: the output that W_proj would have to give at the constraint's last token for the model to
say O* (`optimized_value.py`). Then the *closed form*: the weights nearest to the old ones that map the token's *key*
(the input of W_proj there) to this value (`closed_form.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch

from ..errors import EditError
from ..models.model import VisionLanguageModel
from ..prompts.prompt import Prompt
from ..prompts.tokens import without_control_tokens
from ..text import normalize, quoted
from .closed_form import LAMBDA, check_lambda, low_rank_update
from .edit import Edit, Fact, apply_edits, digest, w_proj
from .optimized_value import OPTIMIZERS, Optimizer, optimize_value, read_values


def edit_facts(
    model: VisionLanguageModel, facts: Iterable[tuple[Prompt, str]], *, layers: Iterable[int] = (2,),
    lam: float = LAMBDA, optimizer: Optimizer = OPTIMIZERS["paper"], items: Iterable[str] = (),
    remote: bool | str | None = None,
) -> Edit:
    """MultEdit: one edit that makes the model answer each prompt with its target (paper, section 5).

    facts: (prompt, target text); several in one layer are solved for together (rank n). Values are optimised in the
    last of `layers`. Several layers share what is missing there evenly, first to last, each with the keys that the
    model has after the edits before. items: ids of the facts' items, for the record. Raises EditError.
    """
    try:
        facts, layers, items = [(prompt, target) for prompt, target in facts], sorted(set(layers)), list(items)
    except (TypeError, ValueError) as error:
        raise EditError("facts must be a list of (prompt, target) pairs, and layers a list such as [2].") from error
    if not facts or not layers:
        raise EditError("facts and layers must not be empty: give (prompt, target) pairs and the layers to edit.")
    if not all(type(layer) is int for layer in layers):
        raise EditError(f"layers must be whole numbers such as 2, not {layers}.")
    if not all(isinstance(target, str) and target.strip() for _, target in facts):
        raise EditError("facts must have targets of at least one word each: give (prompt, target) pairs.")
    for _, target in facts:
        without_control_tokens(model, "target", target, EditError)
    _one_target_each(facts)
    if not 0 <= layers[0] <= layers[-1] < model.n_layers:
        raise EditError(f"layers must be among the model's 0 to {model.n_layers - 1}, not {layers}.")
    check_lambda(lam)
    if items and len(items) != len(facts):
        raise EditError(f"items must be one id for each of the {len(facts)} facts, not {len(items)}.")
    found = [
        optimize_value(model, prompt, target, layer=layers[-1], optimizer=optimizer, remote=remote)
        for prompt, target in facts
    ]
    told = tuple(
        Fact(prompt.question, target, item, one.p_start, one.p_target)
        for (prompt, target), item, one in zip(facts, items or [""] * len(facts), found, strict=True)
    )
    behind = tuple(one.identity for one in model.edits)
    keys = torch.stack([one.key for one in found])
    missing = torch.stack([one.value - one.start for one in found])  # which the old weights lack
    edit, goals = Edit({}, model.name, model.revision, str(model.dtype), {}, lam, told, behind), None
    for left, layer in zip(range(len(layers), 0, -1), layers, strict=True):
        if len(layers) > 1:
            so_far = apply_edits(model, [edit] if edit.factors else [])
            here = [read_values(so_far, prompt, layer, layers[-1], remote) for prompt, _ in facts]
            keys, outputs = (torch.stack([one[name] for one in here]) for name in ("key", "output"))
            if goals is None:  # of the unedited model, with the optimised change
                goals = outputs + missing
            missing = (goals - outputs) / left
        weight = w_proj(model, layer).weight
        weights = edit.weights | {layer: "" if weight.is_meta else digest(weight)}
        edit = replace(edit, factors=edit.factors | {layer: low_rank_update(keys, missing, lam)}, weights=weights)
    return edit


def _one_target_each(facts: list[tuple[Prompt, str]]) -> None:
    """Raises EditError where one prompt is to have two answers: the closed form would take their mean."""
    seen: list[tuple[Prompt, str]] = []
    for prompt, target in facts:
        other = next((told for one, told in seen if _same(one, prompt)), target)
        if normalize(other) != normalize(target):
            raise EditError(
                f"facts ask {quoted(prompt.question)} twice, with the targets {quoted(other)} and {quoted(target)}: "
                "give one target for each prompt."
            )
        seen.append((prompt, target))


def _same(one: Prompt, other: Prompt) -> bool:
    """Whether two prompts are the same tokens about the same picture, edited at the same token."""
    return (
        torch.equal(one.input_ids, other.input_ids) and one.constraint == other.constraint
        and one.image_inputs.keys() == other.image_inputs.keys()
        and all(torch.equal(value, other.image_inputs[name]) for name, value in one.image_inputs.items())
    )
