"""What the tests ask: questions of the embedded test bed, as prompts and as functions that a server runs."""

from __future__ import annotations

import time

import torch

from interventions import build_prompt, corrupt, load_testbed
from interventions.studies.conditions import Conditions, clean_prompt, corrupted_prompt


def items(n: int, part: str = "known", constraints: str = "single"):
    return load_testbed("embedded").select([part], constraints=constraints, limit=n).items


def both_prompts(model, item):
    """The clean and the corrupted prompt of an item."""
    prompt = clean_prompt(model, item, Conditions())
    return prompt, corrupted_prompt(model, item, prompt, Conditions())


def visual_prompts(model, item):
    """The same with the visual constraint replaced, of an item with two."""
    prompt = build_prompt(
        model, item.question, item.image, visual_constraint=item.visual_constraint, text_constraint=item.text_constraint
    )
    return prompt, corrupt(model, prompt, visual_replacement=item.visual_replacement)


# Requests that go wrong there. `request` says how: they are sent by value, as the package's are.


def sleep(lm, request):
    """Takes request["seconds"], in steps that a server can interrupt."""
    end = time.monotonic() + request["seconds"]
    while time.monotonic() < end:
        time.sleep(0.05)
    return {"slept": request["seconds"]}


def fail(lm, request):
    raise ValueError(f"layer {request['layer']} is not there")


def big(lm, request):
    """A result of request["megabytes"]."""
    return {"zeros": torch.rand(request["megabytes"] * 2**18)}
