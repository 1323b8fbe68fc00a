"""What the README and its pages promise can be typed as it stands, and their numbers are those that were measured."""

import json
import re
import runpy

import papermill.cli
from pages import README, ROOT

import interventions
from benchmarks.cost import estimate, read_fit
from interventions import load_model, load_testbed
from interventions.tracing.parameters import Fig3Parameters


def run_blocks(page: str) -> dict:
    """Run a page's Python, in the directory where this is; the names that it makes."""
    names = {}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL):
        exec(block, names)  # the later ones go on with what the first one has made
    return names


def test_python_of_the_readme_runs(capsys):
    result = run_blocks("README.md")["result"]
    assert result.p_clean > result.p_corrupted
    assert result.answer_text in capsys.readouterr().out


def test_python_of_the_page_on_test_beds_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_blocks("docs/extending.md")
    assert [item.answers for item in load_testbed("my-testbed")] == [("Lima",)]


def test_python_of_its_page_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # it writes files
    names = run_blocks("docs/python.md")
    result = names["result"]
    assert result.p_clean > result.p_corrupted
    assert names["found"].norms.shape == (8, 1, 64)
    printed = capsys.readouterr().out
    assert "Dollar -> Peso" in printed
    asked = names["item"].image, names["item"].question
    for name, answer in (("model", "Dollar"), ("edited", "Peso"), ("again", "Peso"), ("changed", "Peso")):
        assert names[name].generate_answer(*asked) == answer, name
    assert load_model(str(tmp_path / "changed")).generate_answer(*asked) == "Peso"
    assert {path.name for path in (tmp_path / "peso").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert result.answer_text in printed and "(8, 1, 64) 0" in printed and "visual -> constraint" in printed


def test_python_of_the_page_on_nnsight_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)  # the page is for a clone
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs/nnsight.md").read_text(), re.DOTALL)[1]
    (tmp_path / "page.py").write_text(code)  # nnsight reads the source of its blocks
    names = runpy.run_path(str(tmp_path / "page.py"))
    assert capsys.readouterr().out.split() == ["Lira", "Lira"]
    assert (names["image"].shape, names["last"].shape) == ((1, 64, 192), (1, 192))


def test_parameters_of_the_commands_are_of_the_right_type():
    commands = re.findall(r"^    papermill notebooks/fig3_trace\.ipynb out\.ipynb (.*)", README, re.MULTILINE)
    assert len(commands) >= 6
    for command in commands:
        given = dict(re.findall(r"-p (\w+) (\S+)", command))
        Fig3Parameters.from_notebook({name: papermill.cli._resolve_type(value) for name, value in given.items()})


def test_speeds_are_those_of_the_benchmark():
    results = json.loads((ROOT / "benchmarks" / "results.json").read_text())
    rows = re.findall(r"^\|.*times its time \|$", README, re.MULTILINE)
    for subject, row in zip(("llava_shape", "mini"), rows, strict=True):
        ways = ("naive", "hooks", "authors", "floor")
        value = {way: results[f"tracing/{subject}/ratio_{way}"]["value"] for way in ways}
        cells = [f"{value[way]:.0f} times faster" for way in ("naive", "hooks", "authors")]
        assert [cell.strip() for cell in row.split("|")[2:-1]] == [*cells, f"{value['floor']:.2f} times its time"]


def test_comparisons_with_other_tools_are_those_of_the_benchmark():
    results = json.loads((ROOT / "benchmarks" / "results.json").read_text())
    text = " ".join(README.split())

    def ratios(subject: str, *ways: str, digits: int = 0) -> list[str]:
        return [f"{results[f'others/{subject}/{way}/ratio']['value']:.{digits}f}" for way in ways]

    shape, mini = (ratios(subject, "pyvene", "transformer_lens", "nnsight") for subject in ("llava_shape", "mini"))
    assert "it is {}, {} and {} times faster than pyvene, TransformerLens and nnsight".format(*shape) in text
    assert "and {}, {} and {} times on `mini`. Hooks".format(*mini) in text
    cached = [*ratios("llava_shape", "hooks_cached", digits=1), *ratios("mini", "hooks_cached", digits=1)]
    few = f"{results['scaling/sites/8/hooks_cached/ratio']['value']:.1f}"
    assert "come nearest: {} and {} times, and {} times where only 8 sites".format(*cached, few) in text


def test_effects_of_chosen_phrases_are_those_of_the_benchmark():
    results = json.loads((ROOT / "benchmarks" / "results.json").read_text())
    text = " ".join(README.split())
    sentences = {"visual": "best MLP layer in Known: {} and {})", "text": "give larger effects ({} and {})"}
    for role, sentence in sentences.items():
        effects = [results[f"corruptions/{role}/known/{name}/mlp effect"]["value"] for name in ("chosen", "by hand")]
        assert sentence.format(*(f"{effect:.2f}" for effect in effects)) in text


def test_costs_of_attention_are_those_of_the_benchmark():
    results = json.loads((ROOT / "benchmarks" / "results.json").read_text())
    costs = re.search(
        r"take (\d\.\d\d) of a plain forward at LLaVA-1\.5's token shape \((\d\.\d\d) on\n`mini`\).*"
        r"a knock-out takes (\d\.\d\d) of one \((\d\.\d\d)\)", README, re.DOTALL
    ).groups()
    names = ("cost_in_forwards", "mini/cost_in_forwards", "knockout_in_forwards", "mini/knockout_in_forwards")
    assert list(costs) == [f"{results[f'attention/{name}']['value']:.2f}" for name in names]
    assert results["attention/long_text/square_tensors"]["value"] == 0


def test_the_control_that_is_not_empty_is_that_of_figure_3():
    numbers = json.loads((ROOT / "reports/mini/fig3_trace.record.json").read_text())["numbers"]
    control = {name: number["value"] for name, number in numbers.items() if name.endswith("control/other position")}
    there, effect = control.pop("movies/mlp/control/other position"), numbers["movies/mlp/peak_effect"]["value"]
    elsewhere = max(value for name, value in control.items() if not name.startswith("movies"))
    assert f"in Movies ({there:.2f} beside {effect:.2f}; {elsewhere:.2f} at most elsewhere)" in " ".join(README.split())


def test_the_two_stories_are_those_of_figure_3():
    rows = {"effect": "effect", "share that carries the answer": "fact",
            "share that only takes the replacement away": "word"}
    text = (ROOT / "README.md").read_text()
    for column, model in enumerate(("mini", "smol")):
        numbers = json.loads((ROOT / f"reports/{model}/fig3_trace.record.json").read_text())["numbers"]
        for row, name in rows.items():
            [cells] = re.findall(rf"^\| {row} \| (.*) \|$", text, re.MULTILINE)
            number = numbers[f"known/mlp/transplant/visual constraint/{name}"]
            measured = [f"{number[key]:.2f}".replace("-0.00", "0.00") for key in ("value", "low", "high")]
            assert cells.split(" | ")[column] == "{} [{}, {}]".format(*measured)


def test_what_blocking_costs_is_that_of_figure_5():
    text = " ".join(README.split())
    sentences = {
        "smol": ("may not read the image (P(answer) falls by {}),", "may not read the constraint ({}),"),
        "mini": ("the other way round ({} and", " and {}). `make fig3"),
    }
    for model, flows in sentences.items():
        numbers = json.loads((ROOT / f"reports/{model}/fig5_attention.record.json").read_text())["numbers"]
        for flow, sentence in zip(("visual", "constraint"), flows, strict=True):
            cost = numbers[f"known/{flow} -> last/drop_all_layers"]
            assert sentence.format("{value:.2f} [{low:.2f}, {high:.2f}]".format(**cost)) in text
    shares = json.loads((ROOT / "reports/smol/fig5_attention.record.json").read_text())["numbers"]
    assert shares["known/visual -> last/transplant/fact"]["low"] > 0.25


def test_numbers_of_figure_17_are_those_of_its_report():
    numbers = json.loads((ROOT / "reports/mini/fig17_failure.record.json").read_text())["numbers"]
    text = " ".join(README.split())
    for predictor, sentence in (
        ("contribution", "its AUROC is {value:.2f} [{low:.2f}, {high:.2f}]"),
        ("confidence", "that of the confidence {value:.2f} [{low:.2f}, {high:.2f}]"),
        ("kind", "without a look into the model, has {value:.2f}."),
    ):
        assert sentence.format(**numbers[f"known/{predictor}/auroc"]) in text
    assert f"({numbers['known/wrong']['n']} questions, {numbers['known/wrong']['value']} answered wrongly)" in text


def test_numbers_of_figures_6_and_14_are_those_of_their_reports():
    text = " ".join(README.split())
    found = {}
    for figure in ("fig6_editing", "fig14_layers"):
        found |= json.loads((ROOT / f"reports/mini/{figure}.record.json").read_text())["numbers"]
    known = "insert, answer said elsewhere"
    for name, sentence in (
        ("correct/MultEdit/efficacy", "corrects {n} errors with efficacy {value:.2f} [{low:.2f}, {high:.2f}]"),
        ("correct/no edit/efficacy", "({value:.2f} before)"),
        ("correct/MultEdit/generalisation", "generalization {value:.2f} [{low:.2f}, {high:.2f}]"),
        ("correct/MultEdit/specificity", "unrelated questions of {value:.1f} [{low:.1f}, {high:.1f}] points"),
        ("correct/fine-tuning/efficacy", "fine-tuning reaches {value:.2f} [{low:.2f}, {high:.2f}]"),
        ("correct/fine-tuning/specificity", "pays with {value:.1f} [{low:.1f}, {high:.1f}] points"),
        ("correct/constrained fine-tuning/specificity", "at {value:.1f} [{low:.1f}, {high:.1f}] points"),
        ("insert/MultEdit/efficacy", "Of {n} facts inserted"),
        (f"{known}/MultEdit/efficacy", "{n} have an answer that `mini` gives to some other question: {value:.2f} "
                                       "[{low:.2f}, {high:.2f}]"),
        ("correct/early - others/efficacy", "by {value:.2f} [{low:.2f}, {high:.2f}] in the efficacy of corrections"),
    ):
        assert sentence.format(**found[name]) in text, name
    claims = json.loads((ROOT / "reports/mini/fig6_editing.record.json").read_text())["claims"]
    kept = {claim["claim"]: claim["here"] for claim in claims if "kept at once" in claim["claim"]}
    for task, told in (("correct", "efficacy is 0.77 and accuracy on unrelated questions 0.72 instead of 0.90"),
                       ("insert", "after 50 insertions, 0.35 and 0.33 instead of 0.87")):
        assert told in text
        efficacy, after, before = re.findall(r"0\.\d\d", told)
        here = kept[f"{task}: 50 edits can be kept at once"]
        assert f"to {efficacy}" in here and f"accuracy {before} to {after}" in here


def test_pictures_and_pages_that_the_readme_names_are_there():
    text = (ROOT / "README.md").read_text()
    targets = re.findall(r"\]\(([^)#]+)\)", text)
    assert len(targets) > 10
    for target in targets:
        assert target.startswith("http") or (ROOT / target).exists(), target


def test_everything_that_the_package_offers_is_on_the_page():
    named = {line.rpartition(".")[2] for line in (ROOT / "docs" / "api.md").read_text().splitlines() if ":::" in line}
    assert set(interventions.__all__) <= named


def test_parameters_of_the_table_are_the_notebook_s():
    notebook = (ROOT / "notebooks" / "fig3_trace.ipynb").read_text()
    table = README[README.index("| parameter |") : README.index("A parameter that does not exist")]
    names = re.findall(r"`(\w+)`", "".join(row.split("|")[1] for row in table.splitlines() if "`" in row))
    assert names == [
        "model", "testbed", "limit", "seed", "revision", "dtype", "device_map", "prompt", "protocol", "results_dir",
        "remote",
    ]
    assert not [name for name in names if f'"{name}: ' not in notebook]


def test_numbers_on_precision_are_those_of_the_report():
    record = json.loads((ROOT / "reports/mini/precision_modes.record.json").read_text())
    numbers = {name: number["value"] for name, number in record["numbers"].items()}
    text = " ".join(README.split())
    for sentence, names in (
        ("those of separate runs by at most {:.2g} in bfloat16 and {:.2g} in float16", "{}/exact mode/to_separate"),
        ("changes an effect by up to {:.2g} in bfloat16 and {:.2g} in float16", "{}/fast mode/to_separate"),
        ("means that figures show by up to {:.2g} and {:.2g};", "{}/fast mode/means_to_separate"),
        ("rounding alone moves effects by up to {:.2g} and {:.2g} from float32", "{}/exact mode/to_float32"),
    ):
        assert sentence.format(*(numbers[names.format(dtype)] for dtype in ("bfloat16", "float16"))) in text
    told = "effects are up to {:.2g} from float32's, and means up to {:.2g}."
    assert told.format(numbers["nf4/exact mode/to_float32"], numbers["nf4/exact mode/means_to_float32"]) in text
    n = record["numbers"]["nf4/exact mode/to_float32"]["n"]
    assert f"{n} questions, {record['claims'][0]['here'].split()[-2]} sites" in text


def test_numbers_of_remote_runs_are_those_of_their_benchmark():
    results = json.loads((ROOT / "benchmarks" / "results.json").read_text())
    told = {name.removeprefix("remote/trusted/"): number["value"] for name, number in results.items()}
    page = (ROOT / "docs" / "ndif.md").read_text()
    rows = dict(re.findall(r"^\| (trace|contributions|knock-outs|answer|value)\b.*?\| (.+) \|$", page, re.MULTILINE))
    names = {"trace": "trace", "contributions": "contributions", "knock-outs": "knockout", "answer": "edited_answer",
             "value": "value"}
    assert rows.keys() == names.keys()
    for row, name in names.items():
        kilobytes = [told[f"{name}/{way}"] for way in ("kB_up", "kB_down")]
        shown = [f"{value:.0f}" if value >= 10 else f"{value:.1f}" for value in kilobytes]
        ratio, requests = told[f"{name}/ratio_local"], told[f"{name}/requests"]
        assert rows[row] == " | ".join([f"{ratio:.1f}", f"{requests:.0f}", *shown])


def test_numbers_of_the_gpu_are_those_of_its_benchmark():
    results = json.loads((ROOT / "benchmarks" / "results.json").read_text())
    told = {name.removeprefix("gpu/llava-1.5-7b/"): number["value"] for name, number in results.items()}
    text = " ".join(README.split())
    assert results["gpu/mini/float32/max_abs_diff"]["machine"]["device"] == "NVIDIA H200" and "one H200" in text
    rows, packed = told["rows/seconds"], told["packed/seconds"]
    assert f"took {rows:.1f} seconds in the exact mode and {packed:.1f} in the fast one" in text
    assert f"with {told['rows/bytes'] / 1e9:.0f} and {told['packed/bytes'] / 1e9:.0f} GB" in text
    sites = 1472
    assert f"its {sites:,} sites would take {told['authors_forward/seconds'] * sites:.0f} seconds" in text
    assert f"by {told['gpu/mini/float32/max_abs_diff']:.1e} at most" in text


def test_costs_are_those_of_the_cost_model_and_of_the_rehearsal():
    text, questions = " ".join(README.split()), 9464
    rows, packed, authors = (
        estimate("llava-1.5-7b", "a100", questions=questions, method=way) for way in ("rows", "packed", "authors")
    )
    assert f"all {questions:,} questions of VQA-Constraints would take {rows.hours:.1f} hours" in text
    assert f"{packed.hours:.1f} in the fast one" in text
    assert f"the authors' protocol {authors.hours / 24:.0f} days" in text
    check = read_fit()["check"]
    error = check["predicted_seconds"] / check["seconds"] - 1
    assert f"it was {abs(error):.0%} too {'high' if error > 0 else 'low'} for the seconds" in text
    results = json.loads((ROOT / "benchmarks/results.json").read_text())
    seconds, peak, hours = (
        results[f"rehearsal/llava-1.5-7b/{name}"]["value"] for name in ("seconds", "bytes", "authors_hours")
    )
    assert f"took {seconds / 60:.1f} minutes and {peak / 1e9:.1f} GB" in text
    assert f"the authors' protocol would have taken {hours:.0f} hours" in text
