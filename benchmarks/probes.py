"""What a tool cannot do here, in its own words: each probe is what a user would try first.

They run after everything is measured, since one leaves the model changed.
"""

from pathlib import Path

import torch

from . import measure
from .subjects import Subject
from .ways import load_bridge, load_checkpoint


def pyvene_names(subject: Subject, directory: Path) -> None:
    """Its own names of LLaVA's modules (paths of modules work)."""
    import pyvene

    pyvene.IntervenableModel({"layer": 0, "component": "mlp_output"}, load_checkpoint(directory))


def pyvene_image(subject: Subject, directory: Path) -> None:
    """Two forwards with an image (it removes all hooks of a model, also those by which LLaVA reads its encoder)."""
    import pyvene

    model = pyvene.IntervenableModel(
        {"component": "model.language_model.layers[0].mlp.output", "intervention_type": pyvene.ZeroIntervention},
        load_checkpoint(directory),
    )
    inputs = {"input_ids": subject.prompt.input_ids[None], **subject.prompt.image_inputs}
    for _ in range(2):
        model(inputs, unit_locations={"base": 0})


def transformer_lens_sweep(subject: Subject, directory: Path) -> None:
    """Its ready-made sweeps on a prompt with an image."""
    from transformer_lens import patching

    bridge, prompt = load_bridge(directory), subject.prompt
    _, cache = bridge.run_with_cache(prompt.input_ids[None], **prompt.image_inputs)
    patching.get_act_patch_mlp_out(
        bridge, subject.corrupted.input_ids[None], cache, lambda logits: logits[0, -1, 0], **prompt.image_inputs
    )


PROBES = {"pyvene": (pyvene_names, pyvene_image), "transformer_lens": (transformer_lens_sweep,)}


@torch.no_grad()
def refusals(way: str, subject: Subject, directory: Path) -> dict[str, dict]:
    """{name of a probe: number}: 1 if the tool refused, with its words as "error", else 0; "what" was tried."""
    found = {}
    for probe in PROBES.get(way, ()):
        try:
            probe(subject, directory)
            error = ""
        except Exception as problem:  # whatever a tool raises is its answer
            error = f"{type(problem).__name__}: {problem}".splitlines()[0]
        found[probe.__name__] = measure.spread([float(bool(error))]) | {"what": probe.__doc__, "error": error}
    return found
