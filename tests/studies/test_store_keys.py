"""Everything that changes a number is in the key of its table.

One parameter, file or item field is changed at a time. The experiment with the change is run in a store that holds the
tables of many others, and in an empty one: both must give the same. The fields of the dataclasses and the arguments of
the functions are read from the code, so that one that is added later fails here until it is changed in turn, too.
"""

import inspect
from dataclasses import fields, replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import tiny
import torch
from answering import MULTI, renamed, speaking

from interventions.attention import lead_time as lead
from interventions.attention.contributions import FLOWS
from interventions.attention.lead_time import lead_time
from interventions.attention.study import attention_study
from interventions.attention.transplant import flow_transplants
from interventions.editing.edit import apply_edits
from interventions.editing.fine_tuning import FineTuning
from interventions.editing.items import references, wrong_items
from interventions.editing.multedit import edit_facts
from interventions.editing.optimized_value import Optimizer
from interventions.editing.study import EDIT_METHODS, EditSettings, edit_study, sequential_edits
from interventions.engine.runs import own_answer
from interventions.errors import ParameterError
from interventions.prompts.prompt import build_prompt
from interventions.studies import loop as asking
from interventions.studies import results
from interventions.studies.conditions import Conditions, clean_prompt
from interventions.studies.loop import RunOptions
from interventions.testbed import Item, load_image
from interventions.tracing.controls import trace_controls
from interventions.tracing.study import trace_study
from interventions.tracing.transplant import transplant_study

# Arguments that say where and how something runs, not what: changed in `test_how_a_study_runs_is_not_in_its_key`.
HOW = {"model", "testbed", "run", "results_dir", "shard", "required", "label", "remote"}
QUICK = EditSettings(
    layers=(1,), optimizer=Optimizer(steps=3), fine_tuning=FineTuning(1e-2, steps=2),
    constrained=FineTuning(1e-2, steps=2, epsilon=5e-3), n_unrelated=2,
)


class World:
    """What an experiment is given: a model, and four items, the first of which is changed."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "images").mkdir(parents=True)
        self.model, self.seed = MODELS["plain"], 0
        single = {
            "question": "The capital of this country is", "visual_constraint": "this country",
            "visual_replacement": "Sri Lanka", "paraphrases": ("The capital of this country",), "relation": "capital",
        }
        multi = MULTI | {
            "relation": "borders", "paraphrases": ("Say a country that borders this country and starts with B",),
        }
        self.items = [self.item(n, **given) for n, given in enumerate((multi, multi, single, single))]
        tiny.picture(99).save(folder / "images" / "other.png")

    def item(self, n: int, **given) -> Item:
        """A question that the model answers right, whatever it says, if that is a word."""
        path, answer = self.folder / "images" / f"{n}.png", ""
        while len(answer) < 2:
            tiny.picture(self.seed).save(path)
            item = Item(id=f"item {n}", part="known", image=path, entity=f"e{n}", answers=("?",), **given)
            answer, self.seed = own_answer(self.model, clean_prompt(self.model, item, Conditions())).text, self.seed + 1
        return replace(item, answers=(answer,))

    def change(self, **given) -> None:
        """Of the first item."""
        self.items[0] = replace(self.items[0], **given)


MODELS = {
    "plain": renamed(speaking(tiny.build()), revision="r1"),
    "text": renamed(speaking(tiny.build("gqa", None)), revision="r1", name="text"),
}


def in_words(table: pd.DataFrame) -> pd.DataFrame:
    """A table as it is compared: without times, plain types."""
    plain = table.drop(columns=["seconds"], errors="ignore")
    return plain.astype({name: object for name in plain if plain[name].dtype == "category"}).reset_index(drop=True)


def run(experiment: str, world: World, out: Path, **given) -> list[pd.DataFrame]:
    """The tables of an experiment, or what it says where no question can be used."""
    try:
        return [in_words(table) for table in EXPERIMENTS[experiment](world, out, **given)]
    except (ParameterError, *asking.QUESTION_ERRORS) as error:
        return [pd.DataFrame([f"{type(error).__name__}: {error}"])]


def same(ones: list[pd.DataFrame], others: list[pd.DataFrame]) -> bool:
    try:
        for one, other in zip(ones, others, strict=True):
            pd.testing.assert_frame_equal(one, other, check_dtype=False, rtol=1e-4, atol=0)
    except (AssertionError, ValueError):
        return False
    return True


# The experiments: functions of a World and a folder to tables.


def traced(world: World, out: Path, **given) -> list[pd.DataFrame]:
    chosen = {"corrupted": "both"} | {name: given.pop(name) for name in list(given) if name in CONDITIONS}
    conditions = Conditions(**chosen)
    study = trace_study(world.model, world.items[:1], run=RunOptions(results_dir=out), conditions=conditions, **given)
    return [study.sites, study.questions]


def noised(world: World, out: Path, **given) -> list[pd.DataFrame]:
    return traced(world, out, **{"corruption": "noise", "noise_samples": 2} | given)


def attended(world: World, out: Path, **given) -> list[pd.DataFrame]:
    study = attention_study(world.model, world.items[:1],
        run=RunOptions(results_dir=out), **{"knockouts": True} | given)
    return [study.contributions, study.knockouts, study.questions]


def controlled(world: World, out: Path, *, conditions: dict | None = None, **given) -> list[pd.DataFrame]:
    window, kinds = given.pop("window", 3), given.pop("kinds", ("mlp", "attention"))
    study = trace_study(world.model, world.items[:1], window=window, kinds=kinds, run=RunOptions(results_dir=out),
                        conditions=Conditions(**{"corrupted": "both"} | (conditions or {})))
    return [trace_controls(world.model, world.items, study, run=RunOptions(out), **given)]


def transplanted(world: World, out: Path, *, conditions: dict | None = None, **given) -> list[pd.DataFrame]:
    window, kinds = given.pop("window", 3), given.pop("kinds", ("mlp", "attention"))
    study = trace_study(world.model, world.items[:1], window=window, kinds=kinds, run=RunOptions(results_dir=out),
                        conditions=Conditions(**{"corrupted": "both"} | (conditions or {})))
    return [transplant_study(world.model, world.items, study, run=RunOptions(out), **given)]


def read_elsewhere(world: World, out: Path, **given) -> list[pd.DataFrame]:
    study = attention_study(world.model, world.items[:1], knockouts=True, protocol=given.get("protocol", "paper"),
                            run=RunOptions(results_dir=out))
    return [flow_transplants(world.model, world.items, study, run=RunOptions(out), **given)]


def asked_for_errors(world: World, out: Path, **given) -> list[pd.DataFrame]:
    item, task = with_target(world.items[0]), given.pop("task", "correct")
    return [pd.DataFrame([answer for _, answer in wrong_items(world.model, [item], task, 0, results_dir=out, **given)])]


def referred(world: World, out: Path, **given) -> list[pd.DataFrame]:
    found = references(world.model, world.items[:2], results_dir=out, **given)
    return [pd.DataFrame([
        {"id": one.item.id, "ids": str(one.answer_ids), "accuracy": one.accuracy, "log_p": float(one.log_p[:50].sum())}
        for one in found
    ])]


def edited(world: World, out: Path, *, pool: int = 4, **given) -> list[pd.DataFrame]:
    methods, others = given.pop("methods", EDIT_METHODS), references(world.model, world.items, results_dir=out)[:pool]
    chosen = {"correct": [(with_target(world.items[0]), "said")]}
    study = edit_study(world.model, chosen, world.items, others, replace(QUICK, **given), methods=methods,
                       run=RunOptions(results_dir=out))
    return [study.results, study.left_out]


def kept(world: World, out: Path, *, pool: int = 4, counts=(1, 2), **given) -> list[pd.DataFrame]:
    others = references(world.model, world.items, results_dir=out)[:pool]
    chosen = {"correct": [(with_target(item), "said") for item in world.items[:2]]}
    return [sequential_edits(world.model, chosen, world.items, others, replace(QUICK, **given),
                             counts=counts, run=RunOptions(out))]


def with_target(item: Item) -> Item:
    """What is edited is answered wrongly now; a target that was changed stays."""
    return replace(item, answers=("New Zealand",)) if item.answers != ("Zanzibar",) else item


EXPERIMENTS = {
    "trace": traced, "noise": noised, "attention": attended, "controls": controlled, "transplant": transplanted,
    "flow transplant": read_elsewhere,
    "errors": asked_for_errors, "references": referred, "edits": edited, "kept edits": kept,
}
CONDITIONS = {
    "protocol": "authors", "window_rule": "radius", "corruption": "repeat", "corrupted": "visual",
    "noise_scale": 1.0, "noise_samples": 3, "noise_seed": 1,
}
OPTIMIZER = {
    "learning_rate": 0.5, "steps": 2, "stop": 1e-30, "weight_decay": 0.5, "clamp": 0.1, "first_token": True,
}
FINE_TUNING = {"learning_rate": 1e-3, "steps": 1, "stop": 1e-9, "epsilon": 1e-4}
ITEM = {
    "id": "another", "part": "okvqa", "question": "Name any country that borders this country and starts with B",
    "image": "other", "visual_constraint": "country", "visual_replacement": "Sri Lanka",
    "text_constraint": "starts with B", "text_replacement": "P", "answers": ("Zanzibar",),
    "paraphrases": ("Tell me of a country near this country that starts with B",), "entity": "e1",
    "relation": "capital", "split": "never", "style": "drawn", "held_out_style": True,
    "annotations": ("Zanzibar",) * 10,
}
ARGUMENTS = {  # besides those that are dataclasses
    "trace": {"window": 1, "kinds": "mlp", "min_p_clean": 0.9999, "method": "plain", "only_read": True},
    "noise": {"window": 1, "method": "plain"},
    "attention": {"flows": list(FLOWS)[:2], "knockouts": False, "window": 1, "protocol": "authors",
                  "max_answer_tokens": 1},
    "controls": {"window": 1, "kinds": "mlp", "seed": 2, "limit": 1, "method": "plain",
                 "conditions": {"corruption": "repeat"}},
    "transplant": {"window": 1, "kinds": "mlp", "seed": 2, "limit": 1, "method": "plain",
                   "conditions": {"corruption": "repeat"}},
    "flow transplant": {"protocol": "authors", "seed": 2, "limit": 1},
    "errors": {"protocol": "authors", "task": "insert"},
    "references": {"protocol": "authors", "seed": 1},
    "edits": {"methods": ("MultEdit",), "pool": 2, "layers": (2,), "lam": 5.0, "n_unrelated": 1, "seed": 1,
              "protocol": "authors"},
    "kept edits": {"counts": (2,), "pool": 2, "layers": (2,), "lam": 5.0, "n_unrelated": 1, "seed": 1,
                   "protocol": "authors"},
}


def cases() -> list:
    """(experiment, what is changed, a function that changes a World and gives the arguments of the experiment)"""
    found = []
    for name in EXPERIMENTS:
        found += [(name, f"item.{field}", lambda world, field=field: changed_item(world, field)) for field in ITEM]
        found += [(name, "picture", overwritten), (name, "another item's picture", overwritten_other),
                  (name, "another item's entity", other_entity)]
        found += [(name, argument, lambda world, given={argument: value}: given)
                  for argument, value in ARGUMENTS[name].items()]
        found += [(name, f"model.{change}", lambda world, change=change: changed_model(world, change))
                  for change in MODEL]
    for name in ("trace", "noise"):
        found += [(name, field, lambda world, given={field: value}: given) for field, value in CONDITIONS.items()]
    for name in ("edits", "kept edits"):
        found += [(name, f"optimizer.{field}", lambda world, given={field: value}: {
            "optimizer": replace(QUICK.optimizer, **given)}) for field, value in OPTIMIZER.items()]
    for kind in ("fine_tuning", "constrained"):
        found += [("edits", f"{kind}.{field}", lambda world, kind=kind, given={field: value}: {
            kind: replace(getattr(QUICK, kind), **given)}) for field, value in FINE_TUNING.items()]
    return found


def changed_item(world: World, field: str) -> dict:
    value = ITEM[field]
    world.change(**{field: world.folder / "images" / f"{value}.png" if field == "image" else value})
    return {}


def overwritten(world: World) -> dict:
    """Another picture under the same name."""
    tiny.picture(99).save(world.items[0].image)
    return {}


def overwritten_other(world: World) -> dict:
    tiny.picture(99).save(world.items[1].image)
    return {}


def other_entity(world: World) -> dict:
    """Then there is another picture of what the first item is about."""
    world.items[1] = replace(world.items[1], entity=world.items[0].entity)
    return {}


MODEL = ("text", "revision", "prompt", "dtype", "attention", "edits")


def changed_model(world: World, change: str) -> dict:
    world.model = CHANGED_MODELS[change](world)
    return {}


def other_weights(world: World):
    model = speaking(tiny.build())
    with torch.no_grad():
        model.module.lm_head.weight.mul_(-1)
    return renamed(model, revision="r2")


def with_prompt(world: World):
    model = renamed(MODELS["plain"], revision="r1")
    model.prompt = "USER: <image> {question} ASSISTANT: The"
    return model


def with_edit(world: World):
    item = world.items[3]
    prompt = build_prompt(MODELS["plain"], item.question, load_image(item.image), visual_constraint="this country")
    return apply_edits(MODELS["plain"], [edit_facts(MODELS["plain"], [(prompt, "Lima")], layers=[1])])


CHANGED_MODELS = {
    "text": lambda world: MODELS["text"], "revision": other_weights, "prompt": with_prompt, "edits": with_edit,
    "dtype": lambda world: renamed(speaking(tiny.build(dtype=torch.bfloat16)), revision="r1"),
    "attention": lambda world: renamed(speaking(tiny.build(attention="eager")), revision="r1"),
}


# What an experiment does not use: words of the test bed that only say where an item comes from, and what belongs to
# others. Everything else must change its tables.
_PHRASES = {"item.visual_constraint", "item.visual_replacement", "item.text_constraint", "item.text_replacement"}
_STYLE = {"item.style", "item.held_out_style"}
_OTHERS = {"another item's picture", "another item's entity"}
UNUSED = {
    "trace": {"item.paraphrases", "item.held_out_style", *_OTHERS, "noise_scale", "noise_samples", "noise_seed"},
    "noise": {"item.visual_replacement", "item.text_replacement", "item.paraphrases", "item.held_out_style", *_OTHERS},
    # The model answers in one token.
    "attention": {*_PHRASES, "item.paraphrases", "item.held_out_style", *_OTHERS, "max_answer_tokens"},
    "controls": {"item.paraphrases", "item.entity", "item.relation", "item.split", *_STYLE, *_OTHERS, "limit", "method",
                 "model.attention"},
    "transplant": {"item.paraphrases", "item.relation", "item.split", *_STYLE, "limit", "seed", "method",
                   "model.attention"},
    "flow transplant": {"item.visual_replacement", "item.text_replacement", "item.paraphrases", "item.relation",
                        "item.split", *_STYLE, "limit", "seed", "model.attention"},
    # An answer in words is the same after a small change.
    "errors": {*_PHRASES, "item.id", "item.part", "item.answers", "item.paraphrases", "item.entity", "item.relation",
               *_STYLE, "item.annotations", *_OTHERS, "model.dtype", "model.attention"},
    "references": {*_PHRASES, "item.part", "item.paraphrases", "item.entity", "item.relation", "item.split", *_STYLE,
                   "another item's entity", "model.attention"},
    "edits": {*_PHRASES, "item.split", *_STYLE, "item.annotations"},
    # Two items to edit leave two unrelated questions, all of which are asked.
    "kept edits": {*_PHRASES, "item.id", "item.part", "item.entity", "item.relation", "item.split", *_STYLE,
                   "item.annotations", "another item's entity", "n_unrelated", "seed", "model.attention"},
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Experiment -> the store that all its cases share, and its tables without any change."""
    found = {}
    for name in EXPERIMENTS:
        folder = tmp_path_factory.mktemp("shared")
        found[name] = folder / "store", run(name, World(folder), folder / "store")
    return found


@pytest.mark.parametrize(("experiment", "name", "change"), cases(), ids=[f"{one[0]}: {one[1]}" for one in cases()])
def test_what_changes_a_number_is_in_the_key(stores, tmp_path, experiment, name, change):
    store, unchanged = stores[experiment]
    world = World(tmp_path)
    given = change(world)
    shared = run(experiment, world, store, **given)
    fresh = run(experiment, world, tmp_path / "fresh", **given)
    assert same(shared, fresh)
    assert name in UNUSED[experiment] or not same(fresh, unchanged)  # else the case would show nothing


def arguments_of(function, *others: str) -> set[str]:
    return set(inspect.signature(function).parameters) - HOW - set(others)


def names(kind) -> set[str]:
    return {field.name for field in fields(kind)}


def test_every_field_and_argument_is_changed_in_turn():
    assert set(ITEM) == names(Item)
    assert set(CONDITIONS) == names(Conditions)
    assert set(OPTIMIZER) == names(Optimizer) and set(FINE_TUNING) == names(FineTuning)
    settings = names(EditSettings) - {"optimizer", "fine_tuning", "constrained"}
    for name, study in (("edits", edit_study), ("kept edits", sequential_edits)):
        others = arguments_of(study, "wrong", "references", "settings")
        assert set(ARGUMENTS[name]) == others | settings | {"pool"}
    assert set(ARGUMENTS["trace"]) == arguments_of(trace_study, "conditions")
    assert set(ARGUMENTS["attention"]) == arguments_of(attention_study)
    of_study = {"window", "kinds", "conditions"}
    assert set(ARGUMENTS["controls"]) == arguments_of(trace_controls, "study") | of_study
    assert set(ARGUMENTS["transplant"]) == arguments_of(transplant_study, "study") | of_study
    assert set(ARGUMENTS["flow transplant"]) == arguments_of(flow_transplants, "study")
    assert set(ARGUMENTS["errors"]) == arguments_of(wrong_items, "limit")
    assert set(ARGUMENTS["references"]) == arguments_of(references)
    assert set(TIMED) == arguments_of(lead_time, "items", "limit")


@pytest.mark.parametrize("experiment", ["trace", "noise", "errors", "references", "attention"])
def test_the_name_that_a_text_only_model_is_asked_about_is_in_the_key(tmp_path, experiment):
    world = World(tmp_path)
    world.model, world.items = MODELS["text"], world.items[2:]
    told = {"flows": ["constraint -> last"]} if experiment == "attention" else {}
    answer = own_answer(world.model, clean_prompt(world.model, world.items[0], Conditions())).text
    world.change(answers=(answer,) if experiment != "errors" else ("Zanzibar",))
    before = run(experiment, world, tmp_path / "shared", **told)
    world.change(entity="Peru")  # asked about it, the model answers something else
    shared, fresh = (run(experiment, world, tmp_path / name, **told) for name in ("shared", "fresh"))
    assert same(shared, fresh) and not same(before, fresh)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_how_a_study_runs_is_not_in_its_key(stores, tmp_path, monkeypatch, experiment):
    """A folder that has moved, and another day's versions and commit compute nothing anew."""
    store, unchanged = stores[experiment]
    world = World(tmp_path / "elsewhere")
    world.model = renamed(MODELS["plain"], revision="r1")
    monkeypatch.setattr(results, "computing", lambda device: {"commit": "another"})
    monkeypatch.setattr(results.ResultStore, "_put", None)
    assert same(run(experiment, world, store), unchanged)


TIMED = {"layers": (1, 3), "protocol": "authors"}


def test_timings_are_read_back_on_the_same_machine_for_the_same_forwards(tmp_path, monkeypatch):
    world, timed = World(tmp_path / "world"), []
    monkeypatch.setattr(lead, "_seconds", lambda model, run: timed.append(run.__name__) or 1.0)

    def measured(**changes) -> bool:
        timed.clear()
        given = {"layers": (1, 2)} | changes
        lead_time(world.model, world.items[:1], given.pop("layers"), run=RunOptions(tmp_path / "store"), **given)
        return len(timed) == 2 * lead.REPEATS

    assert measured() and not measured()
    for name, value in TIMED.items():
        assert measured(**{name: value}) and not measured(**{name: value}), name
    monkeypatch.setattr(lead, "_hardware", lambda model: "another processor")
    assert measured() and not measured()
    overwritten(world)
    assert measured() and not measured()


def test_keys_are_small(tmp_path):
    """An edit's once held all items of its pool and test bed: 57 kB in a table of one row."""
    world = World(tmp_path)
    world.items += [replace(world.items[2], id=f"more {n}") for n in range(200)]
    edited(world, tmp_path / "store", methods=("MultEdit",), pool=200)
    kept(world, tmp_path / "store", pool=200)
    for path in (tmp_path / "store" / "questions").iterdir():
        metadata = pq.read_schema(path).metadata
        assert len(metadata[b"interventions.key"]) < 2500 and len(metadata[b"interventions.computed_by"]) < 500
