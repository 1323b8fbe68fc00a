"""The parameters of every tracing notebook: what each accepts, what it makes of them, and its one-sentence refusals."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from interventions.errors import ParameterError
from interventions.models.families import VICUNA
from interventions.studies.conditions import Conditions
from interventions.studies.loop import RunOptions
from interventions.studies.parameters import Table1Parameters, resolve_window, window_list, window_sentence
from interventions.testbed import Item, TestBed, load_testbed
from interventions.tracing import parameters as module
from interventions.tracing.parameters import (
    Fig1Parameters,
    Fig2Parameters,
    Fig3Parameters,
    Fig4Parameters,
    Fig7Parameters,
    Fig8Parameters,
)
from interventions.tracing.transplant import COLUMNS

TRACING = (Fig1Parameters, Fig2Parameters, Fig3Parameters, Fig4Parameters, Fig7Parameters, Fig8Parameters)
ALL = (*TRACING, Table1Parameters)
WITH_A_WINDOW = (Fig2Parameters, Fig3Parameters, Fig4Parameters, Fig7Parameters, Fig8Parameters)
SWEEPS = (Fig1Parameters, Fig4Parameters)
SINGLE = tuple(cls for cls in TRACING if cls is not Fig4Parameters)


def named(classes):
    return pytest.mark.parametrize("cls", classes, ids=lambda cls: cls.__name__)


def sentence(call, *arguments, **options) -> str:
    with pytest.raises(ParameterError) as error:
        call(*arguments, **options)
    text = str(error.value)
    assert "\n" not in text
    assert text[-1] in ".?"
    return text


def refused(cls, **given) -> str:
    return sentence(cls.from_notebook, given)


def model(n_layers: int, *, is_multimodal=True):
    return SimpleNamespace(name="small", n_layers=n_layers, is_multimodal=is_multimodal)


@pytest.fixture(scope="module")
def bed():
    """Two questions with one constraint and one with two, in each of two parts."""
    common = {"image": None, "visual_constraint": "this country", "visual_replacement": "Chile", "answers": ("Lima",)}
    items = []
    for part in ("known", "movies"):
        items += [Item(id=f"{part}-{n}", part=part, question="The capital of this country", **common) for n in range(2)]
        items.append(Item(id=f"{part}-two", part=part, question="The capital of this country with L",
                          text_constraint="L", text_replacement="B", **common))
    return TestBed("tiny", Path("nowhere"), tuple(items))


# All of them


@named(ALL)
def test_the_defaults_are_valid(cls):
    assert cls.from_notebook({}) == cls()
    assert cls.from_notebook(cls().as_dict()) == cls()


@named(ALL)
def test_the_common_parameters_are_those_of_every_notebook(cls):
    names = set(cls.model_fields)
    assert {"model", "testbed", "limit", "seed", "remote", "protocol", "results_dir", "record_path"} <= names
    assert refused(cls, protocol="papers") == "Parameter 'protocol' cannot be 'papers': did you mean 'paper'?"
    assert "'limit' must be at least 0" in refused(cls, limit=-1)
    assert "'seed' must be at least 0" in refused(cls, seed=-1)


@named(ALL)
def test_records_and_pictures_have_a_place_of_their_own(cls):
    files = {str(other().record_file) for other in ALL}
    assert len(files) == len(ALL)
    assert cls().record_file.name == f"{cls().figure}.record.json"
    assert cls(record_path="a/b.record.json").picture("effects") == Path("a/b_effects")


@named(ALL)
def test_unknown_names_are_refused(cls):
    assert refused(cls, wndow_rule="radius").startswith("Unknown parameter 'wndow_rule': ")
    assert refused(cls, limt=3) == "Unknown parameter 'limt': did you mean 'limit'?"
    assert "choose from 'model', 'testbed', 'limit'" in refused(cls, xyzzy=None)


# Those that trace


@named(TRACING)
@pytest.mark.parametrize(("given", "part"), [
    ({"noise_samples": 0}, "'noise_samples' must be at least 1, not 0"),
    ({"window_rule": "centred"}, "did you mean 'centered'?"),
    ({"corruption": "nois"}, "did you mean 'noise'?"),
    ({"corrupted": "images"}, "choose from '', 'visual', 'text', 'both'"),
    ({"constraints": "one"}, "choose from 'single', 'multi'"),
    ({"min_p_clean": 1.0}, "'min_p_clean' must be below 1.0, not 1.0"),
    ({"min_p_clean": -0.1}, "'min_p_clean' must be at least 0.0, not -0.1"),
])
def test_values_that_no_trace_has(cls, given, part):
    assert part in refused(cls, **given)


@named(TRACING)
def test_shards(cls):
    for shard in ("", "1/8"):
        assert cls.from_notebook({"shard": shard}).run.shard == shard
    assert "'shard' must be like '2/8'" in refused(cls, shard="9/8")


@named(SINGLE)
@pytest.mark.parametrize("corrupted", ["text", "both"])
def test_a_text_constraint_cannot_be_corrupted_where_there_is_none(cls, corrupted):
    text = refused(cls, corrupted=corrupted)
    assert text.startswith(f"Parameter 'corrupted' cannot be {corrupted!r} where constraints is 'single'")
    assert cls.from_notebook({"corrupted": corrupted, "constraints": "multi"}).corrupted == corrupted
    assert cls.from_notebook({"corrupted": "visual"}).corrupted == "visual"


@named(WITH_A_WINDOW)
def test_a_window_is_a_number_of_layers(cls):
    assert "'window' must be at least 1, not 0" in refused(cls, window=0)
    assert "'window' must be a whole number or text" in refused(cls, window=2.0)
    assert cls.from_notebook({"window": "3"}).window_in(model(8)) == 3


@named(WITH_A_WINDOW)
def test_a_window_is_a_share_of_the_depth(cls):
    parameters = cls.from_notebook({"window": "10/32"})
    assert [parameters.window_in(model(n)) for n in (32, 8, 5, 1)] == [10, 3, 2, 1]
    assert parameters.as_dict()["window"] == "10/32"
    assert parameters.windows_in_layers(model(8))["window_layers"] == 3
    assert parameters.windows_sentence(model(8)).startswith("Window: 10/32 of the depth, 3 of 8 layers.")
    for value in ("1,3", "0/32", "33/32", "3/0", "a/b", "0.3", "", "-1/32", "1/2/3"):
        assert "10/32 for ten of the 32 layers" in refused(cls, window=value)


def test_the_windows_of_the_figures_are_the_papers():
    defaults = {cls: cls().window for cls in WITH_A_WINDOW}
    assert defaults == {Fig2Parameters: 3, Fig3Parameters: 3, Fig4Parameters: "6/32", Fig7Parameters: "10/32",
                        Fig8Parameters: 1}
    for cls, layers in ((Fig3Parameters, 3), (Fig4Parameters, 6), (Fig7Parameters, 10), (Fig8Parameters, 1)):
        assert cls().window_in(model(32)) == layers


@named(WITH_A_WINDOW)
def test_a_window_that_the_model_is_too_small_for(cls):
    parameters = cls(window=5, **({"windows": "1,2"} if "windows" in cls.model_fields else {}))
    parameters.check_model(model(5))
    text = sentence(parameters.check_model, model(4))
    assert text.startswith("Parameter 'window' is 5, but the model has 4 layers: choose 1 to 4")


@named(TRACING)
def test_what_a_study_is_told(cls):
    given = {"protocol": "authors", "seed": 3, "noise_samples": 4, "min_p_clean": 0.25, "results_dir": "here",
             "shard": "2/3"}
    parameters = cls.from_notebook(given)
    expected = Conditions("authors", corruption=cls().corruption, noise_samples=4, noise_seed=3)
    assert parameters.conditions == expected and parameters.min_p_clean == 0.25
    assert parameters.run == RunOptions(Path("here"), "2/3", required=False, remote=False)
    assert cls(items="known-1", remote=True).run == RunOptions(Path("results"), required=True, remote=True)


@named(TRACING)
def test_changes_replace_conditions(cls):
    changed = cls().conditions_with(corrupted="visual", corruption="repeat")
    assert (changed.corrupted, changed.corruption, changed.window_rule) == ("visual", "repeat", "centered")


@named(TRACING)
def test_the_rule_is_the_protocols_if_none_is_named(cls):
    assert cls().rule == "centered"
    assert cls(protocol="authors").rule == "radius"
    assert cls(protocol="authors", window_rule="centered").rule == "centered"


@named(SINGLE)
def test_questions_are_chosen_by_part_kind_and_number(cls, bed):
    parameters = cls(parts="known,movies", limit=1)
    assert [item.part for item in parameters.select(bed)] == ["known", "movies"]
    assert [item.id for item in cls(parts="known", limit=0, constraints="multi").select(bed)] == ["known-two"]
    assert [item.id for item in cls(items="movies-1,known-0").select(bed)] == ["movies-1", "known-0"]
    assert "did you mean 'known'?" in sentence(cls(parts="knwn").select, bed)
    assert "no item 'known-9'" in sentence(cls(items="known-9").select, bed)


# Windows as text


def test_windows_are_numbers_with_commas():
    assert window_list("windows", "1,3,6/32") == ["1", "3", "6/32"]
    assert window_list("windows", " 6 , 1,,3, 1") == ["6", "1", "3"]
    assert window_list("windows", 4) == [4]


@pytest.mark.parametrize(("value", "layers"), [(3, 3), ("3", 3), ("10/32", 3), ("6/32", 2), ("1/32", 1), ("32/32", 8)])
def test_a_window_in_layers_of_a_model_of_eight(value, layers):
    assert resolve_window("window", value, 8) == layers


def test_what_a_report_says_of_its_windows():
    assert window_sentence("window", 3, 8) == "Window: 3 of 8 layers."
    assert window_sentence("compared_window", "10/32", 8) == "Compared window: 10/32 of the depth, 3 of 8 layers."
    assert window_sentence("windows", "1,6/32", 8) == "Windows: 1 of 8 layers; 6/32 of the depth, 2 of 8 layers."
    radius = window_sentence("window", 3, 32, "radius")
    assert radius == "Window: a radius of 3, which restores 7 of 32 layers together."


@pytest.mark.parametrize("value", ["", " , ", "0", "1,0", "1,-3", "1;3", "1,three", "1.5", "1 3", "²"])
def test_windows_that_are_none(value):
    text = sentence(window_list, "windows", value)
    assert text.startswith("Parameter 'windows' must name windows as numbers of layers, at least 1, or as shares")


@named(SWEEPS)
def test_a_list_of_windows_is_checked_by_the_notebook(cls):
    assert "'windows' must name windows as numbers of layers" in refused(cls, windows="1,x")
    assert "'windows' must name windows as numbers of layers" in refused(cls, windows="")
    assert "-r windows 3" in refused(cls, windows=3)  # papermill makes a number of it


@named(SWEEPS)
def test_a_list_of_windows_is_checked_against_the_model(cls):
    own = {"window": 1} if "window" in cls.model_fields else {"shown": "1"}
    parameters = cls(windows="1,2,7,9", **own)
    parameters.check_model(model(9))
    text = sentence(parameters.check_model, model(6))
    assert text.startswith("Parameter 'windows' is 7, but the model has 6 layers: choose 1 to 6")


# Figure by figure


def test_fig1_shows_windows_of_its_sweep():
    parameters = Fig1Parameters.from_notebook({"windows": "1,3,5/32,5", "shown": "3,1,5/32"})
    assert parameters.shown_windows(model(32)) == [1, 3, 5]
    assert parameters.shown_windows(model(8)) == [1, 3]
    assert parameters.widest(model(8)) == 3
    assert parameters.windows_in_layers(model(8)) == {"windows_layers": [1, 3, 5]}
    text = refused(Fig1Parameters, windows="1,3", shown="1,5")
    assert text == "Parameter 'shown' names window 5, which is not among windows: choose from 1,3."
    assert "'shown' must name windows" in refused(Fig1Parameters, shown="one")
    assert Fig1Parameters(windows="3,1", shown="1").windows_swept(model(8)) == [1, 3]


def test_fig1_compares_with_models_that_see_nothing(monkeypatch):
    loaded, asked = model(8, is_multimodal=False), []
    monkeypatch.setattr(Fig1Parameters, "load_model", lambda self, *names: (loaded, asked.append(names))[0])
    assert Fig1Parameters().load_text_models() == {"text only": loaded}
    assert list(Fig1Parameters(model="smol").load_text_models()) == ["text only", "text only, base"]
    Fig1Parameters(text_model="this", base_model="that").load_text_models()
    assert asked == [("text_model", "mini-text"), ("text_model", "smol-text"), ("base_model", "smol-base"),
                     ("text_model", "this"), ("base_model", "that")]
    loaded.revision = "r"
    recorded = Fig1Parameters().recorded(model(8), {"text only": loaded, "text only, base": loaded})
    assert (recorded["text_model_revision"], recorded["base_model_revision"]) == ("r", "r")
    loaded.n_layers = 4
    assert "'windows' is 5, but the model has 4 layers" in sentence(Fig1Parameters().load_text_models)
    loaded.is_multimodal = True
    for parameter in ("text_model", "base_model"):
        assert sentence(Fig1Parameters(**{"text_model": "seen", parameter: "mini"}).load_text_models).startswith((
            f"Parameter {parameter!r}: 'mini' sees images, so nothing would be compared",
            "Parameter 'text_model': 'seen' sees images"))


@pytest.mark.parametrize("cls", [Fig2Parameters, Fig8Parameters])
def test_single_questions_are_drawn_from_all_in_the_samples_order(cls, bed, monkeypatch):
    monkeypatch.setattr(module, "load_testbed", lambda name: bed)
    parameters = cls(parts="known,movies", limit=1, seed=5)
    pool, sample = [list(found) for found in (parameters.pool(), parameters.select(bed))]
    assert len(pool) == 4
    for part in ("known", "movies"):
        assert [i for i in pool if i.part == part][:1] == [i for i in sample if i.part == part]


def test_fig3_counts_its_controls():
    assert "'controls' must be at least 0, not -1" in refused(Fig3Parameters, controls=-1)
    assert Fig3Parameters.from_notebook({"controls": 0}).controls == 0


@pytest.mark.parametrize("kind", [Fig1Parameters, Fig3Parameters, Fig4Parameters, Fig8Parameters])
def test_transplants_are_counted_and_drawn_from_the_whole_test_bed(kind, monkeypatch):
    assert "'transplant' must be at least 0, not -1" in refused(kind, transplant=-1)
    asked = []

    def transplant_study(model, bed, study, **given):
        asked.append((len(bed), given["limit"], given["seed"]))
        return pd.DataFrame(columns=COLUMNS)

    monkeypatch.setattr("interventions.tracing.parameters.transplant_study", transplant_study)
    assert kind(transplant=0).transplanted(model(8), None).empty and asked == []
    assert kind(transplant=5, seed=2, limit=1).transplanted(model(8), None).empty
    assert asked == [(len(load_testbed("embedded")), 5, 2)]


def test_fig8_transplants_more_questions_than_it_shows(monkeypatch):
    asked = []

    def first_used(model, pool, n, **given):
        asked.append((n, given["window"], given["only_read"]))

    monkeypatch.setattr("interventions.tracing.parameters.first_used", first_used)
    shares = pd.DataFrame({"kind": ["mlp", "attention"]})
    monkeypatch.setattr(Fig8Parameters, "transplanted", lambda self, model, study: shares)
    found = Fig8Parameters(transplant=7, window=2, kinds="attention").transplanted_sample(model(8), None)
    assert asked == [(7, 2, True)] and found["kind"].tolist() == ["attention"]
    assert Fig8Parameters(transplant=0).transplanted_sample(model(8), None).empty and len(asked) == 1


def test_fig3_knows_the_twin_of_mini(monkeypatch):
    monkeypatch.setattr(
        Fig3Parameters, "load_model",
        lambda self, parameter, name: SimpleNamespace(name=name, n_layers=8),
    )
    assert Fig3Parameters().load_control_model().name == "mini-free"
    assert Fig3Parameters(control_model="mine").load_control_model().name == "mine"
    assert Fig3Parameters(model="mine", control_model="twin").load_control_model().name == "twin"
    for none in ({"model": "mine"}, {"controls": 0}, {"controls": 0, "control_model": "mine"}):
        assert Fig3Parameters(**none).load_control_model() is None


def test_fig4_is_about_two_constraints(bed):
    parameters = Fig4Parameters()
    assert parameters.windows_swept(model(32)) == [1, 3, 6, 8]
    assert parameters.windows_swept(model(8)) == [1, 2, 3, 6, 8]  # 6/32 of eight layers is two
    assert Fig4Parameters(window=2).windows_swept(model(32)) == [1, 2, 3, 6, 8]
    assert "'constraints' must be 'multi', not 'single'" in refused(Fig4Parameters, constraints="single")
    for corrupted in ("visual", "text", "both"):
        text = refused(Fig4Parameters, corrupted=corrupted)
        assert text.startswith(f"Parameter 'corrupted' cannot be {corrupted!r} here")
    chosen = Fig4Parameters(parts="known,movies").select(bed)
    assert [item.id for item in chosen] == ["known-two", "movies-two"]
    assert [item.id for item in Fig4Parameters(items="movies-two").select(bed)] == ["movies-two"]
    text = sentence(Fig4Parameters(items="movies-two,known-1").select, bed)
    assert text.startswith("Parameter 'items': question 'known-1' has no text constraint")


def test_fig7_restores_the_papers_share_of_the_depth_and_never_all_of_it():
    parameters = Fig7Parameters()
    assert [parameters.window_in(model(n)) for n in (32, 8, 5)] == [10, 3, 2]
    parameters.check_model(model(8))
    assert parameters.windows_in_layers(model(8)) == {"window_layers": 3, "compared_window_layers": 3}
    text = parameters.windows_sentence(model(8))
    assert text == "Window: 10/32 of the depth, 3 of 8 layers. Compared window: 3 of 8 layers."
    text = sentence(parameters.check_model, model(2))
    assert text.startswith("Parameter 'compared_window' is 3, but the model has 2 layers: choose 1 to 2")
    assert "'compared_window' must be at least 1" in refused(Fig7Parameters, compared_window=0)
    assert parameters.window_in(model(8), "compared_window") == 3
    assert parameters.conditions_with(corruption="") == Conditions()


def test_fig7_is_standard_tracing():
    conditions = Fig7Parameters().conditions
    assert (conditions.corruption, conditions.noise_samples, conditions.noise_scale) == ("standard", 10, 3.0)
    compared = Fig7Parameters().conditions_with(corruption="replacement")
    assert compared == Conditions()


def test_fig8_stands_for_figures_8_to_13():
    for number in range(8, 14):
        parameters = Fig8Parameters.from_notebook({"figure": f"fig{number}_questions"})
        assert parameters.record_file.name == f"fig{number}_questions.record.json"
    for figure in ("fig7_questions", "fig14_questions", "fig8", ""):
        assert refused(Fig8Parameters, figure=figure).startswith(f"Parameter 'figure' cannot be {figure!r}: ")


def test_fig8_shows_either_kind_or_both():
    assert Fig8Parameters().shown_kinds == ["mlp", "attention"]
    assert Fig8Parameters.from_notebook({"kinds": "attention"}).shown_kinds == ["attention"]
    assert "did you mean 'attention'?" in refused(Fig8Parameters, kinds="mlp,atention")
    assert "'kinds' cannot be ''" in refused(Fig8Parameters, kinds=" , ")


def test_table1_takes_parts_and_a_number_of_examples(bed):
    assert "'examples' must be at least 1, not 0" in refused(Table1Parameters, examples=0)
    assert len(Table1Parameters().select(bed)) == 6
    assert {item.part for item in Table1Parameters(parts="movies").select(bed)} == {"movies"}
    assert "did you mean 'movies'?" in sentence(Table1Parameters(parts="movie").select, bed)


@pytest.mark.parametrize("name", ["llava-hf/llava-1.5-7b-hf", "checkpoints/mini-trained-further"])
def test_other_models_have_no_known_text_only_counterpart(name):
    assert sentence(Fig1Parameters(model=name).load_text_models) == (
        f"Parameter 'text_model' is empty, and {name!r} has no known counterpart: name its text-only model, as "
        "params/models/ does."
    )


def test_a_chat_format_is_that_of_the_text_only_counterpart_too():
    parameters = Fig1Parameters(prompt="Q: <image>{question} A:")
    assert parameters.load_model("model").prompt == "Q: <image>{question} A:"
    assert parameters.load_text_models()["text only"].prompt == "Q: {question} A:"
    assert parameters.load_model("control_model", "mini-free").prompt == VICUNA
