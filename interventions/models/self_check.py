"""Compare the runs that interventions use with the model's own forward, on one short prompt, when a model is loaded."""

from __future__ import annotations

import torch
from PIL import Image
from transformers import DynamicCache

from ..engine.forward import Reads, extend, in_session, positions_at, prompt_inputs, run
from ..engine.packing import packed_inputs
from ..engine.runs import clean_request, image_writes
from ..engine.windows import MASKABLE, default_method
from ..errors import ModelError
from ..prompts.prompt import build_prompt
from ..text import PATH, quoted

# Largest difference of the next token's probabilities that is still rounding.
ROUNDING = {torch.float32: 1e-4, torch.float64: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.01}
QUESTION, CONSTRAINT = "The name of this thing is", "this thing"


@torch.no_grad()
def check_fast_path(model) -> float:
    """Check that a run behind a cached prefix, from the second layer on, equals the model's own forward.

    The model's own forward takes what its processor makes of a picture and a question. So this also compares the tokens
    and their positions.

    Args:
        model: a `VisionLanguageModel` with its weights.

    Returns:
        The largest difference of the probabilities of the next token.

    Raises:
        ModelError: it is larger than rounding in the model's precision explains.
    """
    picture = Image.linear_gradient("L").convert("RGB").resize((96, 64)) if model.is_multimodal else None
    prompt = build_prompt(model, QUESTION, picture, visual_constraint=CONSTRAINT)
    if picture is None:
        inputs = model.processor(prompt.text, return_tensors="pt")
    else:
        inputs = model.processor(images=model.as_read(picture), text=prompt.text, return_tensors="pt")
    inputs = {name: value.to(model.device) for name, value in inputs.items()}
    own = model.module(**inputs).logits[0, -1].float().softmax(-1).cpu()
    packed = default_method(model.dtype, model.attention in MASKABLE) == "packed"
    request = clean_request(model, prompt, prompt.constraint[0]) | {"packed": packed}
    ours = in_session(model.traced, next_token, request)
    difference = float((own - ours).abs().max())
    if not difference <= ROUNDING.get(model.dtype, 0.05):
        raise ModelError(
            f"model {quoted(model.name, PATH)} answers otherwise in the runs that interventions use than by itself "
            f"(probabilities differ by {difference:.2g}): its family's row in families.py does not describe it, so it "
            "cannot be traced."
        )
    return difference


def next_token(lm, request: dict) -> torch.Tensor:
    """Return the probabilities [V] behind the prompt, by a run over its cached prefix that skips the first layer.

    request: `clean_request`, with packed, whether the run has a mask as packed sites have it.
    """
    ids, first, table = request["clean_ids"], request["first"], request["positions"]
    end = ids.shape[1]
    clean = run(
        lm, prompt_inputs(ids, table, request["image_inputs"]), keep=[end - 1], cache=DynamicCache(),
        reads=Reads("hidden", "cache", start=first, image_layers=request["image_layers"]),
    )
    where, offset = torch.arange(first, end), 0
    inputs = {"inputs_embeds": clean["hidden"][1], "position_ids": positions_at(table, where)}
    if request["packed"]:
        inputs, offsets, where = packed_inputs(clean["hidden"][1], table, first, [first] * 2, [end] * 2)
        offset = offsets[1]
    logits = run(
        lm, inputs, keep=[offset + end - 1 - first], cache=extend(clean["cache"], first), skip=1,
        writes=image_writes(request, clean, ids, where, skip=1),
    )["logits"]
    return logits[0, -1].float().softmax(-1).cpu()
