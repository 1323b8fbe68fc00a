"""The studies of Figures 6, 14 and 18: correct wrong answers and insert facts, by several methods.

In `edit_study` and `edit_every_layer` every edit starts from the unedited model. In `sequential_edits` each edit starts
from the model with the edits before it.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from ..draws import seeded_hash
from ..errors import DivergedError, EditError, NoGradientError
from ..layers import early_layers
from ..models.model import VisionLanguageModel
from ..statistics import bootstrap_interval, joined
from ..studies.loop import DEFAULT_RUN, RunOptions, question_loop
from ..studies.results import content_digest
from ..testbed import Item
from ..text import list_reasons
from .closed_form import LAMBDA
from .edit import Edit, apply_edits, load_edit
from .evaluation import Reference, evaluate, questions_about, sample_unrelated
from .fine_tuning import CONSTRAINED_DEFAULT, FineTuning, fine_tuned
from .items import NEVER_MET, WrongItems
from .multedit import edit_facts
from .optimized_value import Optimizer

OURS = "MultEdit"
BASELINES = ("fine-tuning", "constrained fine-tuning")
EDIT_METHODS = ("no edit", OURS, "random layer", *BASELINES)
KNOWN_ANSWER = "insert, answer said elsewhere"  # see `add_known_answers`
NO_EDIT = {NoGradientError: "no gradient", DivergedError: "diverged"}  # errors that a method's average includes
SAMPLE = 3  # times n_unrelated: how many unrelated questions `sequential_edits` asks at each count
_SEQUENTIAL_COLUMNS = [
    "edits", "p_target", "low", "high", "p_paraphrase", "accuracy_before", "accuracy_after", "kl", "n_unrelated",
    "skipped",
]


@dataclass(frozen=True)
class EditSettings:
    """How every item is edited and evaluated.

    Attributes:
        layers, lam, optimizer: of MultEdit, see `edit_facts`.
        fine_tuning, constrained: of the two baselines.
        n_unrelated: unrelated questions asked after each edit.
        seed: of the unrelated questions and the random layer.
        protocol: the prompt's format, see `conditions.Conditions`.
    """

    layers: tuple[int, ...] = (2,)
    lam: float = LAMBDA
    optimizer: Optimizer = field(default_factory=Optimizer)
    fine_tuning: FineTuning = field(default_factory=FineTuning)
    constrained: FineTuning = CONSTRAINED_DEFAULT
    n_unrelated: int = 20
    seed: int = 0
    protocol: str = "paper"

    def key(self, method: str) -> dict:
        """Return the part of a stored table's key that says how a method edits."""
        used = {
            OURS: ("layers", "lam", "optimizer"), "random layer": ("layers", "lam", "optimizer"),
            "fine-tuning": ("fine_tuning",), "constrained fine-tuning": ("constrained",),
        }.get(method, ())
        chosen = self._values(*used, "n_unrelated", "seed", "protocol")
        return {"table": "edit", "version": 2, "method": method} | chosen

    def sequential_key(self) -> dict:
        """Return the part of a stored table's key that says how one of the `sequential_edits` is made."""
        return {"table": "kept_edit", "version": 2} | self._values("layers", "lam", "optimizer", "protocol")

    def _values(self, *names: str) -> dict:
        values = asdict(self)
        return {name: values[name] for name in names}


@dataclass(frozen=True)
class EditStudy:
    """What every method did to every item.

    Attributes:
        results: one row per edited item and method. Columns:
            id, task, part, relation, question, method;
            target: O*;
            sayable: whether O* answers some question that the model was trained on;
            before, after: the model's answers;
            layer: the edited layer (-1: none);
            no_edit: why the method made no edit ("no gradient", "diverged" or ""); then the model is evaluated as is;
            p_before, p_target: P(O*) before and after the edit, of all its tokens (efficacy);
            exact: whether the answer after the edit is O*;
            p_paraphrase, p_pictures, p_following: means of P(O*) over n_* questions (NaN if there are none);
            accuracy_before, accuracy_after: VQA accuracy on n_unrelated unrelated questions;
            kl: mean KL(before || after) of their next token, in nats;
            seconds: the time to make the edit (NaN on a server).
        left_out: task, method, id and reason of items that were not edited.
        n_layers: of the model.
    """

    results: pd.DataFrame
    left_out: pd.DataFrame
    n_layers: int

    def summary(self) -> pd.DataFrame:
        """Count by task and method: items edited, `sayable`, without an edit and left out; with the median seconds."""
        rows = []
        for (task, method), group in self.results.groupby(["task", "method"], sort=False):
            missing = self.left_out[(self.left_out["task"] == task) & (self.left_out["method"] == method)]
            rows.append({
                "task": task, "method": method, "edited": len(group), "sayable": int(group["sayable"].sum()),
                "no edit made": list_reasons(group["no_edit"]), "left out": list_reasons(missing["reason"]),
                "median seconds": group["seconds"].median(),
            })
        return pd.DataFrame(rows)


def edit_study(
    model: VisionLanguageModel, wrong: WrongItems, testbed: Iterable[Item], references: list[Reference],
    settings: EditSettings | None = None, *, methods: Iterable[str] = EDIT_METHODS, run: RunOptions = DEFAULT_RUN,
) -> EditStudy:
    """Edit every item by every method, and evaluate all methods on the same questions.

    Stores one table per item and method. The baselines change weights and restore them. On a server, and with quantized
    weights, they are left out, and a printed line says so.

    Args:
        model: the unedited model.
        wrong: the items of each task, see `wrong_items`.
        testbed: where other pictures and questions that follow from a fact come from.
        references: unrelated questions, see `items.references`.
        settings: how to edit; default `EditSettings()`.
        methods: some of EDIT_METHODS.

    Raises:
        EditError: a method is unknown, or none is possible.
    """
    settings, testbed = settings or EditSettings(), list(testbed)
    methods = _possible_methods(model, tuple(methods))
    task_and_answer = {item.id: (task, answer) for task, pairs in wrong.items() for item, answer in pairs}
    sayable = {answer for item in testbed if item.split not in NEVER_MET for answer in item.answers}
    context = {"pool": _references_digest(references), "testbed": _testbed_digest(testbed)}
    items, frames, left_out = [item for pairs in wrong.values() for item, _ in pairs], [], []
    for method in dict.fromkeys(("no edit", *methods)):
        label = f"{method}, layer {settings.layers[-1]}" if method == OURS else method
        edited = question_loop(
            model, items, partial(_edit_item, model, testbed, references, settings, method),
            key=settings.key(method) | context, purpose=("edit", "edited"),
            run=replace(run, label=label, required=False),
        )
        for result in edited:
            item, (task, answer) = result.item, task_and_answer[result.item.id]
            if result.reason:
                left_out.append((task, method, item.id, result.reason))
            else:
                frames.append(result.table.assign(
                    id=item.id, task=task, before=answer, part=item.part, relation=item.relation,
                    question=item.question, target=item.answers[0], sayable=item.answers[0] in sayable,
                ))
    results = pd.concat(frames, ignore_index=True)
    unedited = results[results["method"] == "no edit"].set_index("id")["p_target"]
    results["p_before"] = results["id"].map(unedited)
    results = results[results["method"].isin(methods)].reset_index(drop=True)
    return EditStudy(results, pd.DataFrame(left_out, columns=["task", "method", "id", "reason"]), model.n_layers)


def edit_every_layer(
    model: VisionLanguageModel, wrong: WrongItems, testbed: Iterable[Item], references: list[Reference],
    settings: EditSettings | None = None, *, run: RunOptions = DEFAULT_RUN,
) -> EditStudy:
    """Edit every item by MultEdit in each layer alone (the paper's Figure 14).

    No later token reads the last layer, so edits there change nothing. Arguments are those of `edit_study`.
    """
    settings, testbed = settings or EditSettings(), list(testbed)
    studies = [
        edit_study(model, wrong, testbed, references, replace(settings, layers=(layer,)), methods=[OURS], run=run)
        for layer in range(model.n_layers)
    ]
    return EditStudy(
        pd.concat([study.results for study in studies], ignore_index=True),
        pd.concat([study.left_out for study in studies], ignore_index=True), model.n_layers,
    )


def sequential_edits(
    model: VisionLanguageModel, wrong: WrongItems, testbed: Iterable[Item], references: list[Reference],
    settings: EditSettings | None = None, *, counts: Iterable[int] = (1, 10, 50), run: RunOptions = DEFAULT_RUN,
) -> pd.DataFrame:
    """Make many edits one after the other, each on the model with the edits before it, and evaluate after some of them.

    Stores one table per edit and one per count. Items that cannot be edited are skipped.

    Args:
        model, wrong, testbed, references, settings: those of `edit_study`.
        counts: numbers of edits after which the model is evaluated. Counts above the number of a task's items, and
            those at which a request fails, give no row.
        run: how the study runs. A shard is ignored, because every edit needs those before it.

    Returns:
        One row per task and count: task, edits (the count), p_target, low, high (mean over all edited facts and its
        interval), p_paraphrase, accuracy_before, accuracy_after, kl (on one sample of unrelated questions),
        n_unrelated (its size, at most SAMPLE * settings.n_unrelated), skipped (items so far).

    Raises:
        The first error of a task without any row.
    """
    settings, testbed, counts = settings or EditSettings(), list(testbed), sorted(set(counts))
    frames = []
    for task, pairs in wrong.items():
        options = replace(run, shard="", required=False, label=f"sequential edits ({task})")
        items = [item for item, _ in pairs]
        frame = _edit_in_sequence(model, items, testbed, references, settings, counts, options)
        frames.append(frame.assign(task=task))
    return pd.concat(frames, ignore_index=True)


def random_layer(item: Item, n_layers: int, layers: Iterable[int], seed: int = 0) -> int:
    """Return the layer that the control edits, by a hash of seed and id.

    It is neither early, nor edited, nor the last, which no later token reads. A model without such a layer takes an
    early one that is not edited, or else an edited one.
    """
    layers = list(layers)
    others = [layer for layer in range(n_layers - 1) if layer not in layers]
    late = [layer for layer in others if layer not in early_layers(n_layers)]
    others = late or others or layers
    return others[int.from_bytes(seeded_hash("layer", seed, item.id)) % len(others)]


def add_known_answers(results: pd.DataFrame) -> pd.DataFrame:
    """Return `EditStudy.results` with the inserted facts whose answer is `sayable` added as the task KNOWN_ANSWER.

    A model that was never trained to say a word can hardly be edited to say it.
    """
    known = results[(results["task"] == "insert") & results["sayable"]]
    return pd.concat([results, known.assign(task=KNOWN_ANSWER)], ignore_index=True)


def _possible_methods(model: VisionLanguageModel, methods: tuple[str, ...]) -> tuple[str, ...]:
    """The methods that the model allows. Raises EditError for an unknown method, and if there is none."""
    for method in methods:
        if method not in EDIT_METHODS:
            raise EditError(f"methods names {method!r}: use {', '.join(map(repr, EDIT_METHODS))}.")
    fixed = model.remote is True or model.quantization
    possible = [method for method in EDIT_METHODS if not (fixed and method in BASELINES)]
    impossible = [method for method in methods if method not in possible]
    if impossible:
        why = "weights on a server stay" if model.remote is True else f"{model.quantization} weights cannot be trained"
        print(f"Left out: {' and '.join(impossible)}, which change weights: {why}.")
    methods = tuple(method for method in methods if method in possible)
    if not methods:
        raise EditError(f"methods has none that {model.name!r} allows: name one of {', '.join(map(repr, possible))}.")
    return methods


def _references_digest(references: Iterable[Reference]) -> str:
    """A digest of the unrelated questions, for keys of tables."""
    return content_digest(sorted(content_digest(one.item.content()) for one in references))


def _testbed_digest(testbed: list[Item]) -> str:
    """A digest of everything that other pictures, told apart by their files, and questions that follow depend on."""
    first = {}
    return content_digest([[first.setdefault(item.image, n), item.content()] for n, item in enumerate(testbed)])


def _edit_item(
    model: VisionLanguageModel, testbed: list[Item], references: list[Reference], settings: EditSettings, method: str,
    item: Item,
) -> pd.DataFrame:
    """The table stored for one item and method: one row."""
    target, layers = item.answers[0], settings.layers
    questions = questions_about(model, item, testbed, settings.protocol)
    unrelated = sample_unrelated(item, references, settings.n_unrelated, settings.seed)
    fact, start, seconds, no_edit = (questions["target"][0], target), time.monotonic(), 0.0, ""
    if method == "random layer":
        layers = (random_layer(item, model.n_layers, layers, settings.seed),)
    try:
        if method in (OURS, "random layer"):
            edit = edit_facts(model, [fact], layers=layers, lam=settings.lam, optimizer=settings.optimizer)
            seconds = time.monotonic() - start
            measured = evaluate(apply_edits(model, [edit]), target, questions, unrelated)
        elif method == "no edit":
            measured = evaluate(model, target, questions, unrelated)
        else:
            tuning = settings.constrained if method == "constrained fine-tuning" else settings.fine_tuning
            with fine_tuned(model, *fact, settings=tuning) as trained:
                measured, seconds = evaluate(model, target, questions, unrelated), trained.seconds
    except tuple(NO_EDIT) as error:
        no_edit, seconds = NO_EDIT[type(error)], time.monotonic() - start
        measured = evaluate(model, target, questions, unrelated)
    layer = layers[-1] if method in (OURS, "random layer") else -1
    if model.remote is True:  # it includes the server's queue
        seconds = math.nan
    made = {"method": method, "layer": layer, "seconds": seconds, "no_edit": no_edit, "reason": ""}
    return pd.DataFrame([made | measured])


def _edit_in_sequence(
    model: VisionLanguageModel, items: list[Item], testbed: list[Item], references: list[Reference],
    settings: EditSettings, counts: list[int], run: RunOptions,
) -> pd.DataFrame:
    """`sequential_edits` of one task."""
    n_edits = max((count for count in counts if count <= len(items)), default=0)
    if not n_edits:
        return pd.DataFrame(columns=_SEQUENTIAL_COLUMNS)
    sample = references
    for item in items[:n_edits]:
        sample = sample_unrelated(item, sample, len(sample), settings.seed)
    sample = sample[: settings.n_unrelated * SAMPLE]
    # An item that takes the place of a skipped one must be unrelated to the sample, too.
    items = [item for item in items if len(sample_unrelated(item, sample, len(sample))) == len(sample)]
    models = [model]  # after 0, 1, 2 ... edits

    def edit(item: Item) -> pd.DataFrame:
        prompt = questions_about(model, item, testbed, settings.protocol)["target"][0]
        try:
            made = edit_facts(
                models[-1], [(prompt, item.answers[0])], layers=settings.layers, lam=settings.lam,
                optimizer=settings.optimizer, items=[item.id],
            )
        except tuple(NO_EDIT) as error:
            return pd.DataFrame([{"edit": None, "reason": NO_EDIT[type(error)]}])
        return pd.DataFrame([{"edit": _to_bytes(made), "reason": ""}])

    def enough(result) -> bool:
        if not result.reason:
            models.append(apply_edits(models[-1], [_from_bytes(result.table.loc[0, "edit"], model)]))
        return len(models) > n_edits

    results = question_loop(
        model, items, edit, key=settings.sequential_key(), item_key=lambda item: models[-1].key(),
        purpose=("edit", "edited"), run=run, stop_when=enough, allow_none=True,
    )
    edited = [result.item for result in results if not result.reason]
    count_of = {edited[count - 1].id: count for count in counts if count <= len(edited)}

    def evaluate_after(item: Item) -> pd.DataFrame:
        return _evaluate_all(models[count_of[item.id]], edited[: count_of[item.id]], testbed, sample, settings.protocol)

    def key_after(item: Item) -> dict:
        count = count_of[item.id]
        return models[count].key() | {"kept": content_digest([one.content() for one in edited[:count]])}

    evaluated = question_loop(
        model, [item for item in edited if item.id in count_of], evaluate_after, item_key=key_after,
        key={"table": "kept_edits", "version": 2, "sample": _references_digest(sample), "protocol": settings.protocol},
        purpose=("evaluate", "evaluated"), run=replace(run, label=f"{run.label}, evaluated"), allow_none=True,
    )
    rows = []
    for result in evaluated:
        count = count_of[result.item.id]
        if result.reason:
            print(f"After {count} sequential edits: {result.reason}", flush=True)
        else:
            skipped = sum(bool(one.reason) for one in results[: [one.item for one in results].index(result.item)])
            rows.append(result.table.assign(edits=count, skipped=skipped, n_unrelated=len(sample)))
    failures = [result.error for result in (*results, *evaluated) if result.error]
    if failures and not rows:
        raise failures[0]
    return joined(rows, _SEQUENTIAL_COLUMNS)


def _evaluate_all(
    model: VisionLanguageModel, edited: list[Item], testbed: list[Item], sample: list[Reference], protocol: str
) -> pd.DataFrame:
    """The table stored for one number of sequential edits: one row."""
    prompts = [questions_about(model, item, testbed, protocol) for item in edited]
    prompts = [{name: one[name] for name in ("target", "paraphrase")} for one in prompts]
    facts = [evaluate(model, item.answers[0], own, []) for item, own in zip(edited, prompts, strict=True)]
    others = evaluate(model, edited[-1].answers[0], prompts[-1], sample)
    value, low, high = bootstrap_interval([one["p_target"] for one in facts])
    return pd.DataFrame([{
        "p_target": value, "low": low, "high": high, "reason": "",
        "p_paraphrase": np.nanmean([one["p_paraphrase"] for one in facts]),
        **{name: others[name] for name in ("accuracy_before", "accuracy_after", "kl")},
    }])


def _to_bytes(edit: Edit) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return edit.save(Path(folder) / "edit.safetensors").read_bytes()


def _from_bytes(content: bytes, model: VisionLanguageModel) -> Edit:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "edit.safetensors"
        path.write_bytes(content)
        return load_edit(path, model)
