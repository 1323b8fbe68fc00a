"""The command line: `interventions COMMAND` or `python -m interventions COMMAND`.

Each command imports what it needs when it runs, so help appears at once. A command returns the text it prints.
"""

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Argument, Option

from .errors import InterventionsError, TestBedError

_STYLE = {
    "add_completion": False, "no_args_is_help": True, "rich_markup_mode": None, "pretty_exceptions_enable": False,
}
app = typer.Typer(help="Interpret vision-language models: reports, models, servers and test beds.", **_STYLE)
testbed_app = typer.Typer(help="Import, build, annotate, verify and complete test beds.", **_STYLE)
build_app = typer.Typer(help="Build a test bed from the original sources.", **_STYLE)
app.add_typer(testbed_app, name="testbed")
testbed_app.add_typer(build_app, name="build")

TestBedFolder = Annotated[str, Argument(help="The folder of the test bed. The command changes it.", metavar="TESTBED")]
NewFolder = Annotated[Path, Argument(help="A new folder for the test bed.")]
Images = Annotated[list[Path], Option(help="A folder of pictures. Repeat the option for more.", metavar="FOLDER")]
Choice = Annotated[str, Option(help="Which of several readable pictures to take: 'first' or 'largest'.")]
KnownFacts = Annotated[Path | None, Option(help="ROME's known_1000.json. The package has a copy.")]


def main(arguments: list[str] | None = None) -> int:
    """Run a command (by default that of `sys.argv`) and return its exit code."""
    try:
        app(args=arguments, prog_name="interventions")
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def _command(group: typer.Typer, name: str | None = None) -> Callable:
    """Return a decorator that adds a command: it prints the returned text, or an error of ours as one sentence."""
    def add(function: Callable[..., str]) -> Callable:
        @functools.wraps(function)
        def run(*arguments, **options) -> None:
            try:
                print(function(*arguments, **options))
            except KeyboardInterrupt:  # what can be interrupted has said what it kept
                raise typer.Exit(130) from None
            except InterventionsError as error:
                print(error, file=sys.stderr)
                raise typer.Exit(1) from None

        return group.command(name)(run)

    return add


@_command(app)
def record(notebook: Annotated[Path, Argument(help="A notebook that papermill has run.")]) -> str:
    """Print the record of an executed notebook as JSON."""
    from .reports.record import read_record

    return json.dumps(read_record(notebook), indent=1, ensure_ascii=False)


@_command(app)
def convert(
    layout: Annotated[Literal["bunny"], Argument(help="The key layout of the checkpoint.")],
    source: Annotated[Path, Argument(help="The folder of the checkpoint.")],
    destination: Annotated[Path, Argument(help="A new folder.")],
    vision_heads: Annotated[int, Option(help="Attention heads of an unknown vision tower.")] = 0,
    vision_layers: Annotated[int, Option(help="Layers of an unknown vision tower, all of them.")] = 0,
) -> str:
    """Write a checkpoint as a native LLaVA."""
    from .models.bunny import convert_bunny

    return "\n".join(convert_bunny(source, destination, vision_heads=vision_heads, vision_layers=vision_layers))


@_command(app)
def preflight(model: Annotated[str, Option(help="An alias, a directory of the server, or a Hub id.")]) -> str:
    """Check that the NDIF server is ready for a model."""
    from .models.loading import load_model

    return "\n".join(load_model(model, remote=True).server.answers)


@_command(app)
def pages(directory: Annotated[Path, Argument(help="Their folder, such as reports/mini.")]) -> str:
    """Write executed notebooks as HTML pages, with an index."""
    from .reports.page import build_pages

    return str(build_pages(directory))


@_command(testbed_app, "import-released")
def import_released(
    directory: Annotated[Path, Argument(help="The folder of the CSVs, data_constraints.")],
    out: NewFolder,
    images: Images,
    known: KnownFacts = None,
    films: Annotated[Path | None, Option(help="movies.pkl, for the answers of Movies.")] = None,
    okvqa_questions: Annotated[
        Path | None, Option(help="OpenEnded_mscoco_val2014_questions.json, for the answers of OK-VQA.")
    ] = None,
    okvqa_annotations: Annotated[
        Path | None, Option(help="mscoco_val2014_annotations.json, for the answers of OK-VQA.")
    ] = None,
    choice: Choice = "first",
) -> str:
    """Make a test bed from the authors' three CSVs."""
    from .testbed.sources import files, released

    return _built(released.import_released(
        directory, out, images=images, known=known or files.KNOWN_FACTS, films=films, okvqa_questions=okvqa_questions,
        okvqa_annotations=okvqa_annotations, choice=choice,
    ))


@_command(build_app)
def okvqa(
    questions: Annotated[Path, Argument(help="OpenEnded_mscoco_val2014_questions.json")],
    annotations: Annotated[Path, Argument(help="mscoco_val2014_annotations.json")],
    out: NewFolder,
    images: Images,
) -> str:
    """Build OK-VQA. Its constraints are not marked yet."""
    from .testbed.sources import build

    return _built(build.build_okvqa(questions, annotations, out, images=images))


@_command(build_app)
def movies(
    films: Annotated[Path, Argument(help="movies.pkl. Nothing in it is run.")],
    out: NewFolder,
    images: Images,
    years: Annotated[
        Path | None, Option(help="CSV of movie_name, year (and director_name), for questions about a year.")
    ] = None,
    multi: Annotated[int, Option(help="The largest number of questions about a year.")] = 500,
    seed: Annotated[int, Option(help="Decides which questions about a year are taken.")] = 0,
    choice: Choice = "first",
) -> str:
    """Build Multimodal Movies: a question for every director with a picture."""
    from .testbed.sources import build

    return _built(build.build_movies(films, out, images=images, years=years, multi=multi, seed=seed, choice=choice))


@_command(build_app)
def known(
    out: NewFolder,
    images: Images,
    known: KnownFacts = None,
    relations: Annotated[Path | None, Option(help="Question and noun of each relation. The package has them.")] = None,
    choice: Choice = "first",
) -> str:
    """Build Multimodal Known: ROME's facts, with the subject shown instead of named."""
    from .testbed.sources import build, files

    return _built(build.build_known(
        out, images=images, known=known or files.KNOWN_FACTS, relations=relations or files.KNOWN_RELATIONS,
        choice=choice,
    ))


@_command(build_app)
def encyclopedic(
    csv: Annotated[Path, Argument(help="train.csv, val.csv or test.csv")], out: NewFolder, images: Images
) -> str:
    """Build the landmark questions of Encyclopedic-VQA: facts to insert."""
    from .testbed.sources import build

    return _built(build.build_encyclopedic(csv, out, images=images))


@_command(testbed_app)
def annotate(
    testbed: TestBedFolder,
    model: Annotated[str, Option(help="The name of the model at the endpoint (OPENAI_BASE_URL, OPENAI_API_KEY).")],
    which: Annotated[
        str, Option(help="Items to annotate: 'unmarked', 'incomplete' (also those without a replacement) or 'all'.")
    ] = "unmarked",
    limit: Annotated[int, Option(help="The largest number of questions. 0 means all.")] = 0,
    examples: Annotated[Path | None, Option(help="JSON or JSONL of annotated questions. The package has 24.")] = None,
    tokenizer: Annotated[
        str | None, Option(help="The model to study. Replacements with as many tokens as the constraint come first.")
    ] = None,
    concurrency: Annotated[int, Option(help="Requests in flight.")] = 4,
    retries: Annotated[int, Option(help="How often to ask again after a reply that breaks a rule.")] = 2,
    timeout: Annotated[float, Option(help="Seconds to wait for a reply.")] = 60.0,
    price_in: Annotated[float | None, Option(help="Dollars per million tokens sent, to print the cost.")] = None,
    price_out: Annotated[float | None, Option(help="Dollars per million tokens received.")] = None,
) -> str:
    """Mark constraints with a language model."""
    from .testbed.annotation import run
    from .testbed.table import load_testbed

    if tokenizer:
        from .models.checkpoints import resolve

        tokenizer = resolve(tokenizer)[0]
    report = run.annotate(
        load_testbed(testbed), model, which=which, limit=limit, examples=examples or run.STARTER_EXAMPLES,
        tokenizer=tokenizer, requests=run.Requests(concurrency, retries, timeout, price_in, price_out),
    )
    if report.count("failed") and not report.count("annotated"):
        print(report)
        raise TestBedError(f"All {report.count('failed')} questions failed. The reasons are above.")
    return str(report)


@_command(testbed_app)
def verify(
    testbed: Annotated[str, Argument(help="The folder of the test bed. --apply changes it.")],
    apply: Annotated[bool, Option("--apply", help="Write the decisions into the test bed.")] = False,
    prefer: Annotated[str, Option(help="With --apply: whose decision counts where people disagree.")] = "",
    only_verified: Annotated[
        bool, Option("--only-verified", help="With --apply: set aside items that nobody accepted or corrected.")
    ] = False,
    log: Annotated[Path | None, Option(help="The log, by default decisions.jsonl in the test bed's folder.")] = None,
) -> str:
    """Show people's decisions, or apply them.

    The decisions are those made in notebooks/verify.ipynb.
    """
    from .testbed.table import load_testbed
    from .testbed.verification.agreement import agreement, disputed, progress
    from .testbed.verification.decisions import DecisionLog, default_log
    from .testbed.verification.outcomes import apply_decisions, summary, with_set_aside

    bed = load_testbed(testbed)
    decisions = DecisionLog(log or default_log(bed))
    if not apply and (prefer or only_verified):
        raise TestBedError("prefer and only_verified need --apply: add it.")
    if apply:
        return summary(apply_decisions(bed, decisions, prefer=prefer, only_verified=only_verified))
    if not decisions.annotators:
        raise TestBedError(f"{decisions.path} holds no decision: make some in notebooks/verify.ipynb first.")
    everything = with_set_aside(bed)
    frames = (progress(everything, decisions), agreement(everything, decisions), disputed(everything, decisions))
    shown = (frame[frame["n"] > 0] if "n" in frame else frame for frame in frames)  # not what nobody marked
    return "\n\n".join(
        frame.to_string(index=False, float_format="{:.2f}".format) for frame in shown if len(frame)
    )


@_command(testbed_app)
def corruptions(
    testbed: TestBedFolder,
    model: Annotated[str, Option(help="A model that checks that P(answer) falls. Empty: no check.")] = "",
    tries: Annotated[int, Option(help="The largest number of phrases to try for a constraint.")] = 8,
    max_p: Annotated[float, Option(help="The P(answer) that is low enough, as a share of the clean run's.")] = 0.05,
    seed: Annotated[int, Option(help="Decides which phrases come first.")] = 0,
    parts: Annotated[str, Option(help="Parts of the test bed, separated by commas. Empty: all.")] = "",
    limit: Annotated[int, Option(help="The largest number of questions of each part. 0 means all.")] = 0,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace existing phrases.")] = False,
    results_dir: Annotated[
        Path, Option(help="Where results are stored, one file a question. An interrupted run continues from them.")
    ] = Path("results"),
    dtype: Annotated[str | None, Option(help="As in the notebooks.")] = None,
    device_map: Annotated[str | None, Option(help="As in the notebooks.")] = None,
    remote: Annotated[bool, Option("--remote", help="Run on the NDIF server of the environment.")] = False,
) -> str:
    """Choose the missing replacement phrases."""
    from .files import why_not_writable
    from .studies import replacements
    from .testbed.provenance import must_be_writable
    from .testbed.table import load_testbed

    bed, vlm, run = load_testbed(testbed), None, None
    chosen = list(dict.fromkeys(filter(None, map(str.strip, parts.split(","))))) or None
    options = {"tries": tries, "max_p": max_p, "limit": limit, "parts": chosen}
    must_be_writable(bed)  # before minutes of work
    replacements.check_settings(bed, **options)
    if not model and (remote or dtype or device_map):
        raise TestBedError("remote, dtype and device_map say how a model is loaded: add --model.")
    if model:
        from .models.loading import load_model
        from .studies.loop import RunOptions

        if why := why_not_writable(results_dir.expanduser()):  # before minutes of loading weights
            raise TestBedError(f"results_dir: {why}: name a folder that can be written.")
        vlm, run = load_model(model, remote=remote, dtype=dtype, device_map=device_map), RunOptions(results_dir)
    found = replacements.choose_corruptions(bed, vlm, overwrite=overwrite, seed=seed, run=run, **options)
    replacements.write_corruptions(bed, found)
    counts = found.summary().T.dropna(how="all").to_string(header=False, float_format="{:.4f}".format)
    n_new = int(found.choices["status"].isin(("chosen", "unchecked")).sum())
    return f"{counts}\n{bed.directory}: {n_new} phrases written. docs/testbeds.md explains each line."


def _built(built: tuple) -> str:
    """Return what happened to the rows of the sources, and where the test bed is."""
    from .testbed.sources.new_testbed import ROWS, summary

    testbed, rows, folders = built
    return f"{summary(rows, folders)}\n{testbed.directory}: {len(testbed)} questions. {ROWS} accounts for every row."
