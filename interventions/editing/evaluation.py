"""What an edit does: to its own fact, to other ways to ask for it, and to everything else (paper, section 5).

An edited model is asked many questions in one request. Of an answer that has not changed, which is the usual case for
unrelated questions, one forward is enough to know it: the old answer's tokens are fed, and every one is still the
likeliest. Only changed answers are generated anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from transformers import DynamicCache

from ..draws import seeded_hash
from ..engine.forward import decode, extend, in_session, prompt_inputs, run
from ..engine.runs import answer_probability
from ..errors import EditError, Unusable
from ..models.model import VisionLanguageModel
from ..prompts.prompt import Prompt, answer_tokens
from ..prompts.tokens import MAX_ANSWER_TOKENS
from ..studies.conditions import Conditions, clean_prompt, named
from ..testbed import Item, same_entity
from ..testbed.answers import accuracy, is_accepted
from .edit import digest

# Relations of the embedded test bed: what country something lies in, and what of that country is asked ("pcapital").
LIES_IN, TWO_STEPS = "country", "p{}"


@dataclass(frozen=True)
class Reference:
    """What the unedited model says to an unrelated question: tokens, accuracy (0 to 1), log_p [V] of the first one."""

    item: Item
    prompt: Prompt = field(repr=False)
    answer_ids: tuple[int, ...]
    accuracy: float
    log_p: torch.Tensor = field(repr=False)


def evaluate(
    model: VisionLanguageModel, target: str, questions: Mapping[str, list[Prompt]], references: list[Reference],
    remote: bool | str | None = None,
) -> dict:
    """Columns of `EditStudy.results`, of this model as it is, in one request.

    questions: "target" (the edited prompt alone), "paraphrase", "pictures", "following" -> prompts that should now be
    answered by `target`. References are the unrelated questions. Raises EditError for a target without tokens.
    """
    asked = [(group, prompt) for group, prompts in questions.items() for prompt in prompts]
    prompts = [prompt for _, prompt in asked] + [one.prompt for one in references]
    known = [(tuple(answer_tokens(model, prompt, target, "target", EditError)), None) for _, prompt in asked]
    known += [(one.answer_ids, one.log_p) for one in references]
    request = answering(model) | {
        "questions": [
            (prompt.input_ids[None], image, *answer)
            for prompt, image, answer in zip(prompts, sent_once(prompts), known, strict=True)
        ],
    }
    found = in_session(model.traced, ask_edited, request, model.runs_on(remote))
    p, exact = np.array(found["p"]), found["unchanged"]
    columns = {}
    for group in questions:
        own = [p[i] for i, (name, _) in enumerate(asked) if name == group]
        columns[f"p_{group}"], columns[f"n_{group}"] = float(np.mean(own)) if own else np.nan, len(own)
    first = next(i for i, (name, _) in enumerate(asked) if name == "target")
    accuracies = [
        one.accuracy if unchanged else accuracy(model.decode(ids), one.item)
        for one, unchanged, ids in zip(references, exact[len(asked):], found["answers"][len(asked):], strict=True)
    ]
    after = target if exact[first] else model.decode(found["answers"][first])
    return columns | {
        "exact": is_accepted(after, (target,)), "after": after,
        "accuracy_before": _mean(one.accuracy for one in references), "accuracy_after": _mean(accuracies),
        "n_unrelated": len(references), "kl": _mean(found["kl"][len(asked):]),
    }


def reference(model: VisionLanguageModel, item: Item, protocol: str = "paper") -> Reference:
    """The unedited model's answer to an unrelated question. Raises `conditions.Unusable`."""
    prompt = clean_prompt(model, item, Conditions(protocol))
    request = answering(model) | {"questions": [(prompt.input_ids[None], prompt.image_inputs, None, None)]}
    found = in_session(model.traced, ask_edited, request, model.runs_on(None))
    ids = tuple(found["answers"][0])
    return Reference(item, prompt, ids, accuracy(model.decode(ids), item), found["log_p"][0])


def questions_about(model: VisionLanguageModel, item: Item, others: Iterable[Item], protocol: str = "paper") -> dict:
    """The prompts of `evaluate` for a fact: the item's own, its paraphrases, other pictures, and what follows.

    others: the test bed, where other pictures of the entity come from, and questions that follow in two steps: about
    what lies in the entity ("the capital of the country of this building"), where the test bed has them. The fact asked
    by the entity's name, without the image, follows in one.
    """
    conditions, others = Conditions(protocol), list(others)
    pictures = {other.image for other in others if other.entity == item.entity and other.image is not None}
    here = {o.entity for o in others if o.relation == LIES_IN and item.entity in o.answers}
    two_steps = [o for o in others if o.entity in here and o.relation == TWO_STEPS.format(item.relation)]
    groups = {
        "target": [item],
        "paraphrase": [replace(item, question=text, paraphrases=()) for text in item.paraphrases],
        "pictures": [replace(item, image=image) for image in sorted(pictures - {item.image})],
        "following": [*_by_name(item), *two_steps],
    }
    prompts = {}
    for group, items in groups.items():
        prompts[group] = []
        for one in items:
            try:
                prompts[group].append(clean_prompt(model, one, conditions))
            except Unusable:
                if group == "target":
                    raise
    return prompts


def unrelated(item: Item, pool: Iterable[Reference], n: int, seed: int = 0) -> list[Reference]:
    """n references about other entities that share no answer with the item, drawn by a hash."""
    fitting = [
        other for other in pool
        if not same_entity(other.item, item) and not set(other.item.answers) & set(item.answers)
    ]
    return sorted(fitting, key=lambda other: seeded_hash(seed, item.id, other.item.id))[:n]


def sent_once(prompts: list[Prompt]) -> list[dict]:
    """The image inputs of these prompts: one object where several see the same picture, which then travels once."""
    known: dict[tuple, dict] = {}
    keys = [tuple((name, digest(tensor)) for name, tensor in prompt.image_inputs.items()) for prompt in prompts]
    return [known.setdefault(key, prompt.image_inputs) for key, prompt in zip(keys, prompts, strict=True)]


def answering(model: VisionLanguageModel) -> dict:
    """What a request needs for greedy answers."""
    return {"eos_token_ids": model.eos_token_ids, "max_answer_tokens": MAX_ANSWER_TOKENS}


def ask_edited(lm, request: dict) -> dict:
    """Lists by question: p (of the answer given), unchanged, answers (None if unchanged), kl, log_p; runs where the
    weights are.

    request: questions [(input_ids [1, T], image inputs, answer ids or None, log_p [V] before or None)].
    unchanged: the answer given is what the model says, its end included. log_p is of questions without an answer given.
    """
    found = {name: [] for name in ("p", "unchanged", "answers", "kl", "log_p")}
    with torch.no_grad():
        for ids, image_inputs, answer, before in request["questions"]:
            given = list(answer or ())
            whole = torch.cat([ids, torch.tensor([given], dtype=torch.long)], dim=1)
            n = ids.shape[1]
            keep = torch.arange(n - 1, whole.shape[1])
            asked = run(lm, prompt_inputs(whole, image_inputs), keep=keep, cache=DynamicCache(), reads=("cache",))
            cache, logits = extend(asked["cache"], n), asked["logits"]  # [1, answer + 1, V]
            said = logits[0].argmax(-1).tolist()
            # An answer ends before an end token; one that would be empty is that token itself, as in `clean_run`.
            ended = given[-1:] + said[-1:]
            unchanged = answer is not None and said[:-1] == given and (
                not set(ended).isdisjoint(request["eos_token_ids"]) or len(given) >= request["max_answer_tokens"]
            )
            log_p = logits[0, 0].float().log_softmax(-1).cpu()
            found["p"].append(float(answer_probability(logits[:, :-1], given)[0]) if given else 1.0)
            found["unchanged"].append(unchanged)
            found["kl"].append(None if before is None else float((before.exp() * (before - log_p)).sum()))
            found["log_p"].append(log_p if answer is None else None)
            found["answers"].append(
                None if unchanged else
                decode(lm, cache, logits[:, :1], request["eos_token_ids"], request["max_answer_tokens"])
                or said[:1]
            )
    return found


def _by_name(item: Item) -> list[Item]:
    try:
        return [named(item)] if item.image is not None else []
    except Unusable:
        return []


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return float(np.mean(values)) if values else np.nan
