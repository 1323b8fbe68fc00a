"""What each choice of the method changes, on `mini`: `python -m benchmarks.choices`.

The same questions under one choice at a time, everything else as in the paper's protocol with a window of three; then
the definitions in which ROME or the released scripts differ from this package. Both tables go into docs/choices.md.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from interventions import apply_edits, build_prompt, corrupt, edit_facts, load_model, load_testbed, trace
from interventions.editing.evaluation import evaluate
from interventions.editing.optimized_value import OPTIMIZERS, Optimizer
from interventions.engine.runs import own_answer
from interventions.prompts.corruption import noise
from interventions.prompts.prompt import answer_tokens
from interventions.statistics import bootstrap_interval
from interventions.studies.conditions import Conditions, clean_prompt, corrupted_prompt
from interventions.testbed import load_image
from interventions.testbed.answers import is_right
from interventions.testbed.images import on_square
from interventions.tracing.causal_trace import KINDS, Scoring

from . import measure

PAGE = Path(__file__).parent.parent / "docs" / "choices.md"
BEGIN, END = "<!-- table: python -m benchmarks.choices -->", "<!-- end of table -->"
BEGIN_DEFINITIONS = "<!-- definitions: python -m benchmarks.choices -->"
COLUMNS = ("questions", "p_corrupted", *(f"{kind}/{what}" for kind in KINDS for what in ("effect", "layer")))


@dataclass(frozen=True)
class Choice:
    name: str
    conditions: dict = field(default_factory=dict)
    settings: dict = field(default_factory=dict)  # of `trace`
    answer_score: str = "first_token"


CHOICES = (
    Choice("paper, window 3"),
    Choice("window 1", settings={"window": 1}),
    Choice("window 5", settings={"window": 5}),
    Choice("window rule radius (7 layers)", {"window_rule": "radius"}),
    Choice("corruption repeat", {"corruption": "repeat"}),
    Choice("corruption noise", {"corruption": "noise"}),
    Choice("corruption standard", {"corruption": "standard"}),
    Choice("answer score sequence", answer_score="sequence"),
    Choice("prompt of the authors", {"protocol": "authors", "corruption": "replacement", "window_rule": "centered"}),
    Choice("authors, all of it", {"protocol": "authors"}),
)


def measured(model, items, choice: Choice) -> dict:
    """Means over the questions that are answered right: P(corrupted), and by kind the best layer's effect at the
    constraint's last token, with its interval."""
    conditions = Conditions(**choice.conditions)
    settings = {"window": 3, "window_rule": conditions.window_rule} | choice.settings
    corrupted, effects = [], []
    for item in items:
        prompt = clean_prompt(model, item, conditions)
        found = trace(
            model, prompt, corrupted_prompt(model, item, prompt, conditions), positions=(prompt.constraint[-1],),
            scoring=Scoring(choice.answer_score, accepted=item.answers, min_p_clean=0.1), **settings,
        )
        if found.correct and not np.isnan(found.p_corrupted):
            corrupted.append(found.p_corrupted)
            effects.append(found.effects[:, 0])  # [kinds, layers]
    value, low, high = bootstrap_interval(np.array(corrupted))
    numbers = {"questions": measure.spread([len(corrupted)]), "p_corrupted": number(value, low, high, len(corrupted))}
    value, low, high = bootstrap_interval(np.array(effects))
    for k, kind in enumerate(KINDS):
        best = int(value[k].argmax())
        numbers[f"{kind}/effect"] = number(value[k, best], low[k, best], high[k, best], len(effects))
        numbers[f"{kind}/layer"] = measure.spread([best])
    return {f"choices/{choice.name}/{name}": entry for name, entry in numbers.items()}


@dataclass(frozen=True)
class Definition:
    """What differs, and a function of (model, limit) -> [(label, values by question)]."""

    name: str
    measured: Callable[[object, int], list[tuple[str, list[float]]]]


def padding(model, limit: int) -> list:
    """Questions about pictures that are not square: squeezed as the processor does it, or padded as LLaVA's code."""
    items = [item for item in load_testbed().select(constraints="single")
             if item.image is not None and len(set(load_image(item.image).size)) == 2][:limit]
    color = tuple(int(255 * mean) for mean in model.processor.image_processor.image_mean)
    found = {}
    for item in items:
        picture = load_image(item.image)
        for name, image in (("squeezed", picture), ("padded", on_square(picture, color))):
            prompt = build_prompt(model, item.question, image, visual_constraint=item.visual_constraint)
            right = is_right(own_answer(model, prompt).text, item)
            found.setdefault(f"answered right, {name}", []).append(float(right))
            if right:
                corrupted = corrupt(model, prompt, visual_replacement=item.visual_replacement)
                traced = trace(model, prompt, corrupted, positions=(prompt.constraint[-1],), kinds="mlp")
                found.setdefault(f"best MLP effect, {name}", []).append(float(traced.effects.max()))
    return list(found.items())


def question_marks(model, limit: int) -> list:
    """Questions that end in "?", in the scripts' format as it is here, and with the second "?" that they write."""
    asked = load_model("mini", prompt="<image>\nUSER: {question} Answer in a few words.\nASSISTANT:")
    items = [item for item in load_testbed().select(constraints="single") if item.question.endswith("?")][:limit]
    found = []
    for marks in ("?", "??"):
        prompts = [build_prompt(asked, item.question.rstrip("?") + marks, item.image,
                                visual_constraint=item.visual_constraint) for item in items]
        right = [float(is_right(own_answer(asked, p).text, item)) for p, item in zip(prompts, items, strict=True)]
        found.append((f"answered right, {marks}", right))
    return found


def noise_size(model, limit: int) -> list:
    """Noise of three standard deviations of the constraint's own embeddings, or of all constraints' together (ROME)."""
    table = model.module.get_input_embeddings().weight
    cases = [(item, clean_prompt(model, item, Conditions())) for item in right_ones(model, limit)]
    of = [table[prompt.input_ids[list(prompt.constraint)]] for _, prompt in cases]
    common = float(np.concatenate([one.numpy().ravel() for one in of]).std())
    found = {"sigma of a prompt over that of all": [float(one.std()) / common for one in of]}
    for name, scales in (("own sigma", [3.0] * len(of)), ("one sigma", [3 * common / float(one.std()) for one in of])):
        for (_, prompt), scale in zip(cases, scales, strict=True):
            traced = trace(model, prompt, noise(model, prompt, "constraint", scale=scale),
                           positions=(prompt.constraint[-1],), kinds="mlp")
            found.setdefault(f"P(corrupted), {name}", []).append(traced.p_corrupted)
            found.setdefault(f"best MLP effect, {name}", []).append(float(traced.effects.max()))
    return list(found.items())


def efficacy(model, limit: int) -> list:
    """P(O*) of answers of several tokens: before, and after edits whose value is optimized for all of them or for the
    first, with and without the scripts' clamp."""
    items = [item for item in load_testbed().select(constraints="single", seed=1)
             if len(answer_ids(model, item)) > 1 and not is_right(said(model, item), item)][:limit]
    paper, authors = OPTIMIZERS["paper"], OPTIMIZERS["authors"]
    ways = {
        "paper": paper, "first token only": Optimizer(first_token=True), "authors": authors,
        "authors without the clamp": replace(authors, clamp=0.0),
    }
    found = {}
    for item in items:
        prompt, target = clean_prompt(model, item, Conditions()), item.answers[0]
        scores = {"before": model}
        for name, optimizer in ways.items():
            scores[name] = apply_edits(model, [edit_facts(model, [(prompt, target)], optimizer=optimizer)])
        for name, edited in scores.items():
            p = evaluate(edited, target, {"target": [prompt]}, [])["p_target"]
            found.setdefault(f"P(O*), all tokens, {name}", []).append(p)
    return list(found.items())


def said(model, item) -> str:
    return own_answer(model, clean_prompt(model, item, Conditions())).text


def answer_ids(model, item) -> list[int]:
    return answer_tokens(model, clean_prompt(model, item, Conditions()), item.answers[0])


def right_ones(model, limit: int) -> list:
    """The first questions that are answered right."""
    items = load_testbed().select(constraints="single", limit=limit)
    return [item for item in items if is_right(said(model, item), item)][:limit]


DEFINITIONS = (
    Definition("pictures that are not square", padding),
    Definition("a second question mark", question_marks),
    Definition("sigma of the noise", noise_size),
    Definition("efficacy of answers of several tokens", efficacy),
)


def definition_numbers(definition: Definition, found: Iterable[tuple[str, list[float]]]) -> dict:
    """The results' entries: means with intervals over questions."""
    return {
        f"definitions/{definition.name}/{label}": number(*bootstrap_interval(np.array(values)), len(values))
        for label, values in found
    }


def definition_table(results: dict) -> str:
    """The second table of the page, from the results file."""
    lines = ["| definition | measured | mean [95 %] | n |", "|---|---|---|---|"]
    for name, entry in results.items():
        if name.startswith("definitions/"):
            _, definition, label = name.split("/", 2)
            interval = f"{entry['value']:.2f} [{entry['low']:.2f}, {entry['high']:.2f}]"
            lines.append(f"| {definition} | {label} | {interval} | {entry['n']} |")
    return "\n".join(lines)


def number(value, low, high, n: int) -> dict:
    return {"value": float(value), "low": float(low), "high": float(high), "n": n}


def table(results: dict) -> str:
    """The page's table, from the results file."""
    lines = [
        "| choice | questions | P(corrupted) | MLP: best effect [95 %] | layer | attention: best effect | layer |",
        "|---|---|---|---|---|---|---|",
    ]
    for choice in CHOICES:
        cells = []
        for column in COLUMNS:
            entry = results[f"choices/{choice.name}/{column}"]
            if column.endswith("effect") or column == "p_corrupted":
                cells.append(f"{entry['value']:.2f} [{entry['low']:.2f}, {entry['high']:.2f}]")
            else:
                cells.append(f"{entry['value']:.0f}")
        lines.append(f"| {choice.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def on_page(page: str, made: str, begin: str = BEGIN) -> str:
    """The page with its table replaced."""
    return re.sub(f"{begin}.*?{END}", lambda _: f"{begin}\n{made}\n{END}", page, count=1, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, default=20, help="questions of each part")
    options = parser.parse_args()
    model = load_model("mini")
    items = load_testbed().select(constraints="single", limit=options.limit).items
    for choice in CHOICES:
        numbers = measured(model, items, choice)
        measure.save(numbers)
        print({name.rpartition("choices/")[2]: round(entry["value"], 3) for name, entry in numbers.items()}, flush=True)
    for definition in DEFINITIONS:
        numbers = definition_numbers(definition, definition.measured(model, options.limit))
        measure.save(numbers)
        print({name.rpartition("/")[2]: round(entry["value"], 3) for name, entry in numbers.items()}, flush=True)
    results = json.loads(measure.RESULTS.read_text())
    page = on_page(PAGE.read_text(), table(results))
    PAGE.write_text(on_page(page, definition_table(results), BEGIN_DEFINITIONS))


if __name__ == "__main__":
    main()
