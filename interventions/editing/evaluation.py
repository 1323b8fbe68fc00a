"""What an edit does to its own fact, to other ways to ask for it, and to everything else (paper, section 5).

An edited model is asked many questions in one request. An answer that has not changed, the usual case for unrelated
questions, takes one forward pass: the old answer's tokens are fed, and each is still the likeliest. Only changed
answers are generated again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from transformers import DynamicCache

from ..draws import seeded_hash
from ..engine.forward import Reads, decode, extend, in_session, prompt_inputs, run
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
    """The unedited model's answer to an unrelated question.

    `accuracy` is VQA accuracy, 0 to 1; `log_p` [V] are the log-probabilities of the first answer token.
    """

    item: Item
    prompt: Prompt = field(repr=False)
    answer_ids: tuple[int, ...]
    accuracy: float
    log_p: torch.Tensor = field(repr=False)


def evaluate(
    model: VisionLanguageModel, target: str, questions: Mapping[str, list[Prompt]], references: list[Reference],
    remote: bool | str | None = None,
) -> dict:
    """Measure an edited model in one request.

    Args:
        target: O*, which should now answer all `questions`.
        questions: group -> prompts, see `questions_about`.
        remote: None = as the model was loaded.

    Returns:
        Columns of `EditStudy.results`: p_* and n_* by group, exact, after, accuracy_*, n_unrelated, kl.

    Raises:
        EditError: the target has no tokens.
    """
    groups = [group for group, prompts in questions.items() for _ in prompts]
    about = [prompt for prompts in questions.values() for prompt in prompts]
    prompts = about + [one.prompt for one in references]
    known = [(tuple(answer_tokens(model, prompt, target, "target", EditError)), None) for prompt in about]
    known += [(one.answer_ids, one.log_p) for one in references]
    request = _answer_settings(model) | {
        "questions": [
            (prompt.input_ids[None], prompt.position_ids, image, *answer)
            for prompt, image, answer in zip(prompts, sent_once(prompts), known, strict=True)
        ],
    }
    answered = in_session(model.traced, answer_questions, request, model.runs_on(remote))
    p, unchanged, answers = np.array(answered["p"]), answered["unchanged"], answered["answers"]
    columns, n = {}, len(about)
    for group in questions:
        own = [p[i] for i in range(n) if groups[i] == group]
        columns[f"p_{group}"], columns[f"n_{group}"] = _mean(own), len(own)
    edited = groups.index("target")
    accuracies = [
        one.accuracy if same else accuracy(model.decode(ids), one.item)
        for one, same, ids in zip(references, unchanged[n:], answers[n:], strict=True)
    ]
    after = target if unchanged[edited] else model.decode(answers[edited])
    return columns | {
        "exact": is_accepted(after, (target,)), "after": after,
        "accuracy_before": _mean(one.accuracy for one in references), "accuracy_after": _mean(accuracies),
        "n_unrelated": len(references), "kl": _mean(answered["kl"][n:]),
    }


def reference(model: VisionLanguageModel, item: Item, protocol: str = "paper") -> Reference:
    """Ask the unedited model an unrelated question. Raises Unusable."""
    prompt = clean_prompt(model, item, Conditions(protocol))
    question = (prompt.input_ids[None], prompt.position_ids, prompt.image_inputs, None, None)
    request = _answer_settings(model) | {"questions": [question]}
    answered = in_session(model.traced, answer_questions, request, model.runs_on(None))
    ids = tuple(answered["answers"][0])
    return Reference(item, prompt, ids, accuracy(model.decode(ids), item), answered["log_p"][0])


def questions_about(model: VisionLanguageModel, item: Item, others: Iterable[Item], protocol: str = "paper") -> dict:
    """Return the prompts that ask about a fact in several ways, for `evaluate`.

    "target" is the item itself, "paraphrase" its paraphrases, "pictures" the item with other pictures of its entity.
    "following" asks for the fact by the entity's name, without the image, and in two steps, about what lies in the
    entity ("the capital of the country of this building").

    Other pictures and two-step questions come from `others`, the test bed. Questions that cannot be asked are left out;
    if the item itself cannot, Unusable is raised.
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


def sample_unrelated(item: Item, references: Iterable[Reference], n: int, seed: int = 0) -> list[Reference]:
    """Sample n references about other entities that share no answer with the item, by a hash of seed and ids."""
    fitting = [
        other for other in references
        if not same_entity(other.item, item) and not set(other.item.answers) & set(item.answers)
    ]
    return sorted(fitting, key=lambda other: seeded_hash(seed, item.id, other.item.id))[:n]


def sent_once(prompts: list[Prompt]) -> list[dict]:
    """Return the image inputs of prompts, one object for all with the same picture: a request then holds it once."""
    known: dict[tuple, dict] = {}
    keys = [tuple((name, digest(tensor)) for name, tensor in prompt.image_inputs.items()) for prompt in prompts]
    return [known.setdefault(key, prompt.image_inputs) for key, prompt in zip(keys, prompts, strict=True)]


def answer_questions(lm, request: dict) -> dict:
    """Answer many questions where the weights are.

    request: questions [(input_ids [1, T], positions, image inputs, answer ids or None, log_p [V] before or None)],
    eos_token_ids, max_answer_tokens. Returns lists by question: p (of the given answer), unchanged (the given answer,
    its end included, is what the model says), answers (None if unchanged), kl, log_p (where no answer is given).
    """
    columns = {name: [] for name in ("p", "unchanged", "answers", "kl", "log_p")}
    with torch.no_grad():
        for ids, positions, image_inputs, answer, before in request["questions"]:
            given = list(answer or ())
            whole = torch.cat([ids, torch.tensor([given], dtype=torch.long)], dim=1)
            n = ids.shape[1]
            keep = torch.arange(n - 1, whole.shape[1])
            inputs = prompt_inputs(whole, positions, image_inputs)
            forward = run(lm, inputs, keep=keep, cache=DynamicCache(), reads=Reads("cache"))
            cache, logits = extend(forward["cache"], n), forward["logits"]  # [1, answer + 1, V]
            likeliest = logits[0].argmax(-1).tolist()
            # An answer ends before an end token; one that would be empty is that token itself, as in `clean_run`.
            ended = given[-1:] + likeliest[-1:]
            unchanged = answer is not None and likeliest[:-1] == given and (
                not set(ended).isdisjoint(request["eos_token_ids"]) or len(given) >= request["max_answer_tokens"]
            )
            log_p = logits[0, 0].float().log_softmax(-1).cpu()
            columns["p"].append(float(answer_probability(logits[:, :-1], given)[0]) if given else 1.0)
            columns["unchanged"].append(unchanged)
            columns["kl"].append(None if before is None else float((before.exp() * (before - log_p)).sum()))
            columns["log_p"].append(log_p if answer is None else None)
            columns["answers"].append(
                None if unchanged else
                decode(lm, cache, logits[:, :1], positions, request["eos_token_ids"], request["max_answer_tokens"])
                or likeliest[:1]
            )
    return columns


def _answer_settings(model: VisionLanguageModel) -> dict:
    """What a request needs for greedy answers."""
    return {"eos_token_ids": model.eos_token_ids, "max_answer_tokens": MAX_ANSWER_TOKENS}


def _by_name(item: Item) -> list[Item]:
    try:
        return [named(item)] if item.image is not None else []
    except Unusable:
        return []


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return float(np.mean(values)) if values else np.nan
