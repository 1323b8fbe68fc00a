"""What every intervention's request says of the runs that it begins with: plain values and tensors, which travel."""

from ..prompts.corruption import CorruptedPrompt
from ..prompts.prompt import Prompt
from ..prompts.tokens import MAX_ANSWER_TOKENS


def request_of_both(model, prompt: Prompt, corrupted: CorruptedPrompt) -> dict:
    """What a request says of the clean and the corrupted run, see `restoration.restore_sites`."""
    noise = corrupted.noise
    return clean_request(model, prompt, corrupted.first_corrupted) | {
        "corrupted_ids": corrupted.input_ids[None],
        "noise": None if noise is None else (noise.positions, noise.scale, noise.samples, noise.seed),
    }


def clean_request(model, prompt: Prompt, first: int) -> dict:
    """What a request says of the clean run, see `restoration.clean_run`: nothing recorded, the model's own answer."""
    return {
        "clean_ids": prompt.input_ids[None],
        "image_inputs": prompt.image_inputs,
        "image_token_id": -1 if model.image_token_id is None else model.image_token_id,
        "first": first,
        "kinds": (),
        "answer_ids": None,
        "blank_ids": model.blank_ids,
        "sequence": False,
        "eos_token_ids": model.eos_token_ids,
        "max_answer_tokens": MAX_ANSWER_TOKENS,
    }
