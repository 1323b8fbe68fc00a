"""The experiment of Figures 6, 14 and 18: correct errors and insert facts, by several methods, one table an item.

Every edit starts from the unedited model. What is edited, and what is asked besides, is chosen in `edit_items.py`.
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
from ..environment import device_of
from ..errors import DivergedError, EditError, NoGradientError, Unusable
from ..layers import early_layers
from ..models.model import VisionLanguageModel
from ..statistics import bootstrap_interval
from ..studies.loop import QUESTION_ERRORS, QuestionResult, RunOptions, question_loop, run_question, stop_run
from ..studies.results import ResultStore, content_digest
from ..testbed import Item
from ..text import list_reasons
from .closed_form import LAMBDA
from .edit import Edit, apply_edits, load_edit
from .evaluation import Reference, evaluate, questions_about, unrelated
from .fine_tuning import CONSTRAINED_DEFAULT, FineTuning, fine_tuned
from .items import Chosen
from .multedit import edit_facts
from .optimized_value import Optimizer

OURS = "MultEdit"
BASELINES = ("fine-tuning", "constrained fine-tuning")
EDIT_METHODS = ("no edit", OURS, "random layer", *BASELINES)
KNOWN_ANSWER = "insert, answer said elsewhere"  # see `known_answers_apart`
NO_EDIT = {NoGradientError: "no gradient", DivergedError: "diverged"}  # errors that a method's average includes


@dataclass(frozen=True)
class Editing:
    """What is done to every item: MultEdit in `layers`, the baselines' settings, the number of unrelated questions."""

    layers: tuple[int, ...] = (2,)
    lam: float = LAMBDA
    optimizer: Optimizer = field(default_factory=Optimizer)
    fine_tuning: FineTuning = field(default_factory=FineTuning)
    constrained: FineTuning = CONSTRAINED_DEFAULT
    n_unrelated: int = 20
    seed: int = 0
    protocol: str = "paper"

    def key(self, method: str) -> dict:
        """What of it determines a method's results."""
        used = {
            OURS: ("layers", "lam", "optimizer"), "random layer": ("layers", "lam", "optimizer"),
            "fine-tuning": ("fine_tuning",), "constrained fine-tuning": ("constrained",),
        }.get(method, ())
        chosen = asdict(self)
        return {"table": "edit", "version": 2, "method": method} | {
            name: chosen[name] for name in (*used, "n_unrelated", "seed", "protocol")
        }


@dataclass(frozen=True)
class EditStudy:
    """`results`, tidy, one row an edited item and method.

    id, task, part, relation, question, target (O*), sayable (whether some question that the model was trained on has
    this answer), before and after (what the model says), method, layer (-1: none), no_edit (why the method made none:
    no gradient reaches the layer, or it diverged; else ""; such a model is evaluated as it is), p_before, p_target
    (efficacy: P(O*), all its tokens), exact (the answer is O*), p_paraphrase, p_pictures, p_following (means of P(O*);
    NaN if there are none) with n_*, accuracy_before, accuracy_after (VQA accuracy on n_unrelated unrelated questions),
    kl (mean KL(before || after) of their next token, nats), seconds (to make the edit; NaN on a server).
    """

    results: pd.DataFrame
    left_out: pd.DataFrame  # task, method, id, reason
    n_layers: int

    def summary(self) -> pd.DataFrame:
        """By task and method: questions asked after an edit, of how many the answer is said elsewhere (`sayable`), in
        how many the method made no edit, why others were left out, and the median seconds that an edit takes."""
        rows = []
        for (task, method), found in self.results.groupby(["task", "method"], sort=False):
            missing = self.left_out[(self.left_out["task"] == task) & (self.left_out["method"] == method)]
            rows.append({
                "task": task, "method": method, "edited": len(found), "sayable": int(found["sayable"].sum()),
                "no edit made": list_reasons(found["no_edit"]), "left out": list_reasons(missing["reason"]),
                "median seconds": found["seconds"].median(),
            })
        return pd.DataFrame(rows)


def edit_study(
    model: VisionLanguageModel, chosen: Chosen, testbed: Iterable[Item],
    pool: list[Reference], settings: Editing | None = None, *, methods: Iterable[str] = EDIT_METHODS,
    run: RunOptions | None = None,
) -> EditStudy:
    """Edit every chosen item by every method, and evaluate each on the same questions; one stored table an item and
    method.

    chosen: task -> what `wrong_items` found. testbed: where other pictures and questions that follow come from. pool:
    that of `references`. Baselines change weights and put them back; a server's are never touched and quantised ones
    cannot be trained, so there they are left out, which is told. Raises EditError where that leaves none.
    """
    settings, testbed, methods, run = settings or Editing(), list(testbed), tuple(methods), run or RunOptions()
    for method in methods:
        if method not in EDIT_METHODS:
            raise EditError(f"methods names {method!r}: use {', '.join(map(repr, EDIT_METHODS))}.")
    fixed = model.remote is True or model.quantization
    possible = [method for method in EDIT_METHODS if not (fixed and method in BASELINES)]
    unable = [method for method in methods if method not in possible]
    if unable:
        why = f"{model.quantization} ones cannot be trained"
        if model.remote is True:
            why = "those on a server stay as they are"
        print(f"Left out: {' and '.join(unable)}, which change weights, and {why}.")
        methods = tuple(method for method in methods if method in possible)
    if not methods:
        raise EditError(f"methods has none that {model.name!r} allows: name one of {', '.join(map(repr, possible))}.")
    said = {item.id: (task, answer) for task, items in chosen.items() for item, answer in items}
    sayable = {answer for item in testbed if item.split != "never" for answer in item.answers}
    surroundings = {"pool": pool_digest(pool), "testbed": _testbed_digest(testbed)}
    items, frames, left_out = [item for found in chosen.values() for item, _ in found], [], []
    for method in dict.fromkeys(("no edit", *methods)):
        asked = question_loop(
            model, items, partial(_edit_item, model, testbed, pool, settings, method),
            key=settings.key(method) | surroundings, purpose=("edit", "edited"),
            run=replace(run, label=f"{method}, layer {settings.layers[-1]}" if method == OURS else method),
        )
        frames += [
            entry.table.assign(
                id=entry.item.id, task=said[entry.item.id][0], before=said[entry.item.id][1], part=entry.item.part,
                relation=entry.item.relation, question=entry.item.question, target=entry.item.answers[0],
                sayable=entry.item.answers[0] in sayable,
            )
            for entry in asked if not entry.reason
        ]
        left_out += [(said[one.item.id][0], method, one.item.id, one.reason) for one in asked if one.reason]
    results = pd.concat(frames, ignore_index=True)
    unedited = results[results["method"] == "no edit"].set_index("id")["p_target"]
    results["p_before"] = results["id"].map(unedited)
    kept = results[results["method"].isin(methods)].reset_index(drop=True)
    missing = pd.DataFrame(left_out, columns=["task", "method", "id", "reason"])
    return EditStudy(kept, missing, model.n_layers)


def edit_every_layer(
    model: VisionLanguageModel, chosen: Chosen, testbed: Iterable[Item],
    pool: list[Reference], settings: Editing | None = None, **options,
) -> EditStudy:
    """MultEdit in every layer by itself (the paper's Figure 14); the last one, which nothing reads, changes nothing."""
    settings, testbed = settings or Editing(), list(testbed)
    studies = [
        edit_study(model, chosen, testbed, pool, replace(settings, layers=(layer,)), methods=[OURS], **options)
        for layer in range(model.n_layers)
    ]
    results, left_out = ([getattr(one, name) for one in studies] for name in ("results", "left_out"))
    return replace(
        studies[0], results=pd.concat(results, ignore_index=True), left_out=pd.concat(left_out, ignore_index=True)
    )


def random_layer(item: Item, n_layers: int, layers: Iterable[int], seed: int = 0) -> int:
    """The control's layer, by a hash: not early, not one of those edited, and not the last, which no later token reads.

    A model that has no such layer takes an early one that is not edited, or else an edited one.
    """
    layers = list(layers)
    others = [layer for layer in range(n_layers - 1) if layer not in layers]
    late = [layer for layer in others if layer not in early_layers(n_layers)]
    others = late or others or layers
    return others[int.from_bytes(seeded_hash("layer", seed, item.id)) % len(others)]


def pool_digest(pool: Iterable[Reference]) -> str:
    """What stands for unrelated questions in the key of a table."""
    return content_digest(sorted(content_digest(one.item.content()) for one in pool))


def _testbed_digest(testbed: list[Item]) -> str:
    """The same for all that other pictures, which differ by their file, and questions that follow can be taken from."""
    first = {}
    return content_digest([[first.setdefault(item.image, n), item.content()] for n, item in enumerate(testbed)])


def _edit_item(
    model: VisionLanguageModel, testbed: list[Item], pool: list[Reference], settings: Editing, method: str, item: Item
) -> pd.DataFrame:
    """The table stored for one item and method: one row."""
    target, layers = item.answers[0], settings.layers
    questions = questions_about(model, item, testbed, settings.protocol)
    others = unrelated(item, pool, settings.n_unrelated, settings.seed)
    fact, start, seconds, no_edit = (questions["target"][0], target), time.monotonic(), 0.0, ""
    if method == "random layer":
        layers = (random_layer(item, model.n_layers, layers, settings.seed),)
    try:
        if method in (OURS, "random layer"):
            edit = edit_facts(model, [fact], layers=layers, lam=settings.lam, optimizer=settings.optimizer)
            seconds = time.monotonic() - start
            found = evaluate(apply_edits(model, [edit]), target, questions, others)
        elif method == "no edit":
            found = evaluate(model, target, questions, others)
        else:
            tuning = settings.constrained if method == "constrained fine-tuning" else settings.fine_tuning
            with fine_tuned(model, *fact, settings=tuning) as trained:
                found, seconds = evaluate(model, target, questions, others), trained.seconds
    except tuple(NO_EDIT) as error:
        no_edit, seconds = NO_EDIT[type(error)], time.monotonic() - start
        found = evaluate(model, target, questions, others)
    layer = layers[-1] if method in (OURS, "random layer") else -1
    if model.remote is True:  # what others had the turn and the server's queue for is no time of this edit
        seconds = math.nan
    made = {"method": method, "layer": layer, "seconds": seconds, "no_edit": no_edit, "reason": ""}
    return pd.DataFrame([made | found])


def known_answers_apart(results: pd.DataFrame) -> pd.DataFrame:
    """`EditStudy.results` with the inserted facts whose answer is `sayable` once more, as a task of their own.

    A model that has never been trained to say a word can hardly be edited to say it; one that says it elsewhere can.
    """
    known = results[(results["task"] == "insert") & results["sayable"]]
    return pd.concat([results, known.assign(task=KNOWN_ANSWER)], ignore_index=True)



SAMPLE = 3  # times n_unrelated: unrelated questions are asked once a count here, not once an edit
_COLUMNS = ["edits", "p_target", "low", "high", "p_paraphrase", "accuracy_before", "accuracy_after", "kl",
            "n_unrelated", "skipped"]


def sequential_edits(
    model: VisionLanguageModel, chosen: Chosen, testbed: Iterable[Item],
    pool: list[Reference], settings: Editing | None = None, counts: Iterable[int] = (1, 10, 50), *,
    results_dir: str | Path = "results",
) -> pd.DataFrame:
    """Edits that are kept, each made on the model as edited so far, evaluated after `counts` of them, by task.

    Columns task, edits, p_target, low, high (mean over all facts kept so far, with its interval), p_paraphrase,
    accuracy_before, accuracy_after, kl (of one sample of questions that have nothing to do with any fact kept),
    n_unrelated (its size: SAMPLE times that of the settings, or as many as there are), skipped (items that could not be
    edited, so far). Counts above the number of a task's items are left out, and those at which a request failed.
    results_dir: one stored table an edit and count; a run that was killed goes on from there. No shards: an edit needs
    those before it. Raises what `asking.ask` does, and the error of a task that gives no row.
    """
    settings, testbed, counts = settings or Editing(), list(testbed), sorted(set(counts))
    store = ResultStore(results_dir, device_of(model))
    frames = [
        _kept_edits(model, [item for item, _ in items], testbed, pool, settings, counts, store).assign(task=task)
        for task, items in chosen.items()
    ]
    return pd.concat(frames, ignore_index=True)


def _kept_edits(
    model: VisionLanguageModel, items: list[Item], testbed: list[Item], pool: list[Reference], settings: Editing,
    counts: list[int], store: ResultStore,
) -> pd.DataFrame:
    edited, kept, rows, skipped, failure = model, [], [], 0, None
    most = max((count for count in counts if count <= len(items)), default=0)
    sample = pool
    for item in items[:most]:
        sample = unrelated(item, sample, len(sample), settings.seed)
    sample = sample[: settings.n_unrelated * SAMPLE]
    made_with = {name: asdict(settings)[name] for name in ("layers", "lam", "optimizer", "protocol")}
    for item in items:
        if len(kept) == most:
            break
        # One that takes the place of a skipped one may be what the sample asks about.
        if len(unrelated(item, sample, len(sample), settings.seed)) < len(sample):
            continue
        try:
            questions = questions_about(model, item, testbed, settings.protocol)
        except (Unusable, *QUESTION_ERRORS):
            skipped += 1
            continue
        entry = _asked(
            edited, item, partial(_edit, edited, questions, settings),
            {"table": "kept_edit", "version": 2} | made_with, store,
            len(kept),
        )
        if entry.reason:
            skipped, failure = skipped + 1, failure or entry.error
            continue
        edited = apply_edits(edited, [_from_bytes(entry.table.loc[0, "edit"], model)])
        kept.append((item, {name: questions[name] for name in ("target", "paraphrase")}))
        if len(kept) in counts:
            key = {
                "table": "kept_edits", "version": 2, "kept": content_digest([one.content() for one, _ in kept]),
                "sample": pool_digest(sample), "protocol": settings.protocol,
            }
            entry = _asked(edited, item, partial(_evaluated, edited, kept, sample), key, store, len(kept))
            failure = failure or entry.error
            if entry.reason:
                print(f"After {len(kept)} kept edits: {entry.reason}", flush=True)
            else:
                rows.append(entry.table.assign(edits=len(kept), skipped=skipped, n_unrelated=len(sample))[_COLUMNS])
    if failure is not None and not rows:
        raise failure
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=_COLUMNS)


def _asked(model: VisionLanguageModel, item: Item, compute, key: dict, store: ResultStore,
    n_kept: int) -> QuestionResult:
    try:
        return run_question(model, item, compute, key, store)[0]
    except Exception as error:
        stop_run(error, item, f"{n_kept} edits are done and kept")


def _edit(model: VisionLanguageModel, questions: dict, settings: Editing, item: Item) -> pd.DataFrame:
    """The table stored for one edit: its file, or why there is none."""
    fact = questions["target"][0], item.answers[0]
    try:
        edit = edit_facts(
            model, [fact], layers=settings.layers, lam=settings.lam, optimizer=settings.optimizer, items=[item.id]
        )
    except tuple(NO_EDIT) as error:
        return pd.DataFrame([{"edit": None, "reason": NO_EDIT[type(error)]}])
    return pd.DataFrame([{"edit": _to_bytes(edit), "reason": ""}])


def _evaluated(model: VisionLanguageModel, kept: list[tuple], sample: list[Reference], item: Item) -> pd.DataFrame:
    """The table stored for one number of edits: one row."""
    found = [evaluate(model, one.answers[0], prompts, []) for one, prompts in kept]
    others = evaluate(model, item.answers[0], kept[-1][1], sample)
    value, low, high = bootstrap_interval([one["p_target"] for one in found])
    return pd.DataFrame([{
        "p_target": value, "low": low, "high": high, "reason": "",
        "p_paraphrase": np.nanmean([one["p_paraphrase"] for one in found]),
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
