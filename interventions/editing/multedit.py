"""MultEdit (paper, section 5): correct or insert facts by a low-rank change of W_proj in one layer or a few.

First, `optimized_value` finds the *value*: the output of W_proj at the constraint's last token that makes the model
say O*. Then `closed_form` finds the weights nearest to the old ones that map the token's *key* (the input of W_proj
there) to this value.
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
    """Make one edit that changes the model's answer to each prompt (MultEdit, paper, section 5).

    Values are optimized in the last of `layers`. Several layers share the change of its output evenly, from first to
    last: the keys of each are read with the edits of the layers before it in force.

    Args:
        model: the model. It stays as it is, see `apply_edits`.
        facts: (prompt, target text) pairs. Facts in one layer are solved for together (rank n).
        lam: the lambda of Eq. 7.
        items: the ids of the facts' items, kept in `Edit.facts`.
        remote: None = as the model was loaded.

    Raises:
        EditError: an argument is wrong, or `optimize_value` fails.
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
    _check_one_target_each(facts)
    if not 0 <= layers[0] <= layers[-1] < model.n_layers:
        raise EditError(f"layers must be among the model's 0 to {model.n_layers - 1}, not {layers}.")
    check_lambda(lam)
    if items and len(items) != len(facts):
        raise EditError(f"items must be one id for each of the {len(facts)} facts, not {len(items)}.")
    optimized = [
        optimize_value(model, prompt, target, layer=layers[-1], optimizer=optimizer, remote=remote)
        for prompt, target in facts
    ]
    made = tuple(
        Fact(prompt.question, target, item, value.p_start, value.p_target)
        for (prompt, target), item, value in zip(facts, items or [""] * len(facts), optimized, strict=True)
    )
    requires = tuple(edit.identity for edit in model.edits)
    keys = torch.stack([value.key for value in optimized])
    residuals = torch.stack([value.value - value.start for value in optimized])
    edit, goals = Edit({}, model.name, model.revision, str(model.dtype), {}, lam, made, requires), None
    for n_left, layer in zip(range(len(layers), 0, -1), layers, strict=True):
        if len(layers) > 1:
            so_far = apply_edits(model, [edit] if edit.factors else [])
            current = [read_values(so_far, prompt, layer, layers[-1], remote) for prompt, _ in facts]
            keys, outputs = (torch.stack([tensors[name] for tensors in current]) for name in ("key", "output"))
            if goals is None:  # of the unedited model, with the optimized change
                goals = outputs + residuals
            residuals = (goals - outputs) / n_left
        weight = w_proj(model, layer).weight
        weights = edit.weights | {layer: "" if weight.is_meta else digest(weight)}
        edit = replace(edit, factors=edit.factors | {layer: low_rank_update(keys, residuals, lam)}, weights=weights)
    return edit


def _check_one_target_each(facts: list[tuple[Prompt, str]]) -> None:
    """Raise EditError where one prompt has two targets: the closed form would take their mean."""
    for n, (prompt, target) in enumerate(facts):
        other = next((known for earlier, known in facts[:n] if _same(earlier, prompt)), target)
        if normalize(other) != normalize(target):
            raise EditError(
                f"facts ask {quoted(prompt.question)} twice, with the targets {quoted(other)} and {quoted(target)}: "
                "give one target for each prompt."
            )


def _same(one: Prompt, other: Prompt) -> bool:
    """Whether two prompts have the same tokens, picture and edited token."""
    return (
        torch.equal(one.input_ids, other.input_ids) and one.constraint == other.constraint
        and one.image_inputs.keys() == other.image_inputs.keys()
        and all(torch.equal(value, other.image_inputs[name]) for name, value in one.image_inputs.items())
    )
