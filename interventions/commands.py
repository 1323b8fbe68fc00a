"""The command line of test beds: `python -m interventions testbed …`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from .errors import TestBedError
from .files import why_not_writable
from .testbed.provenance import must_be_writable
from .testbed.sources.files import KNOWN_FACTS, KNOWN_RELATIONS
from .testbed.table import load_testbed


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Put the commands under a parser; each sets `run`, a function of the options that returns what is printed."""
    commands = parser.add_subparsers(dest="action", required=True)
    _released(commands)
    builds = _command(commands, "build", "make a test bed of the original sources").add_subparsers(
        dest="part", required=True
    )
    for add in (_okvqa, _movies, _known, _encyclopedic):
        add(builds)
    for add in (_annotate, _verify, _corruptions):
        add(commands)


def _released(commands) -> None:
    command = _command(commands, "import-released", "make a test bed of the authors' three CSVs", _run_released)
    command.add_argument("directory", help="the folder of the CSVs, data_constraints")
    command.add_argument("out", help="a new folder for the test bed")
    _images(command)
    command.add_argument("--known", default=str(KNOWN_FACTS), help="ROME's known_1000.json (default: ours of the same)")
    command.add_argument("--films", help="movies.pkl, for the answers of Movies")
    command.add_argument("--okvqa-questions", help="OpenEnded_mscoco_val2014_questions.json, for the answers of OK-VQA")
    command.add_argument("--okvqa-annotations", help="mscoco_val2014_annotations.json, the same")
    _choice(command)


def _run_released(options) -> str:
    from .testbed.sources.released import import_released

    return _made(import_released(
        options.directory, options.out, images=options.images, known=options.known, films=options.films,
        okvqa_questions=options.okvqa_questions, okvqa_annotations=options.okvqa_annotations, choice=options.choice,
    ))


def _okvqa(builds) -> None:
    command = _command(builds, "okvqa", "OK-VQA's questions, constraints not marked yet", _run_okvqa)
    command.add_argument("questions", help="OpenEnded_mscoco_val2014_questions.json")
    command.add_argument("annotations", help="mscoco_val2014_annotations.json")
    command.add_argument("out", help="a new folder for the test bed")
    _images(command)


def _run_okvqa(options) -> str:
    from .testbed.sources.build import build_okvqa

    return _made(build_okvqa(options.questions, options.annotations, options.out, images=options.images))


def _movies(builds) -> None:
    command = _command(builds, "movies", "a question for every director that has an image", _run_movies)
    command.add_argument("films", help="movies.pkl (read without running anything in it)")
    command.add_argument("out", help="a new folder for the test bed")
    _images(command)
    command.add_argument("--years", help="CSV with movie_name, year (and director_name): questions about a year, too")
    command.add_argument("--multi", type=int, default=500, help="so many of them at most (500)")
    command.add_argument("--seed", type=int, default=0, help="which of them")
    _choice(command)


def _run_movies(options) -> str:
    from .testbed.sources.build import build_movies

    return _made(build_movies(
        options.films, options.out, images=options.images, years=options.years, multi=options.multi,
        seed=options.seed, choice=options.choice,
    ))


def _known(builds) -> None:
    command = _command(builds, "known", "ROME's facts, the subject shown instead of named", _run_known)
    command.add_argument("out", help="a new folder for the test bed")
    _images(command)
    command.add_argument("--known", default=str(KNOWN_FACTS), help="known_1000.json (default: the copy in the package)")
    command.add_argument("--relations", default=str(KNOWN_RELATIONS), help="question and noun of each relation")
    _choice(command)


def _run_known(options) -> str:
    from .testbed.sources.build import build_known

    return _made(build_known(
        options.out, images=options.images, known=options.known, relations=options.relations, choice=options.choice,
    ))


def _encyclopedic(builds) -> None:
    command = _command(builds, "encyclopedic", "Encyclopedic-VQA's landmarks, facts to insert", _run_encyclopedic)
    command.add_argument("csv", help="train.csv, val.csv or test.csv")
    command.add_argument("out", help="a new folder for the test bed")
    _images(command)


def _run_encyclopedic(options) -> str:
    from .testbed.sources.build import build_encyclopedic

    return _made(build_encyclopedic(options.csv, options.out, images=options.images))


def _annotate(commands) -> None:
    told = "a language model marks constraints and proposes replacements"
    command = _command(commands, "annotate", told, _run_annotate)
    _testbed(command)
    command.add_argument("--model", required=True, help="as the endpoint calls it (OPENAI_BASE_URL, OPENAI_API_KEY)")
    command.add_argument(
        "--which", default="unmarked", help="items: unmarked (default), incomplete (no replacement, too), or all anew"
    )
    command.add_argument("--limit", type=int, default=0, help="questions (0: all)")
    command.add_argument("--examples", help="JSON or JSONL of annotated questions that the model sees (24 of ours)")
    command.add_argument(
        "--tokenizer", help="the model to be studied: replacements of as many tokens as the constraint are preferred"
    )
    command.add_argument("--concurrency", type=int, default=4, help="requests in flight (4)")
    command.add_argument("--retries", type=int, default=2, help="more tries for a reply that breaks a rule (2)")
    command.add_argument("--timeout", type=float, default=60.0, help="seconds (60)")
    command.add_argument("--price-in", type=float, help="dollars per million tokens sent, to be told the cost")
    command.add_argument("--price-out", type=float, help="dollars per million tokens received")


def _run_annotate(options) -> str:
    from .models.checkpoints import resolve
    from .testbed.annotation.run import annotate

    report = annotate(
        load_testbed(options.testbed), options.model, which=options.which, limit=options.limit,
        tokenizer=options.tokenizer and resolve(options.tokenizer)[0],
        concurrency=options.concurrency, retries=options.retries, timeout=options.timeout,
        price_in=options.price_in, price_out=options.price_out,
        **({"examples": options.examples} if options.examples else {}),
    )
    if report.count("failed") and not report.count("annotated"):
        print(report)
        raise TestBedError(f"None of {report.count('failed')} questions could be annotated: the reasons are above.")
    return str(report)


def _verify(commands) -> None:
    told = "what people decided in notebooks/verify.ipynb, and how they agree"
    command = _command(commands, "verify", told, _run_verify)
    _testbed(command, "its folder, which --apply changes")
    command.add_argument("--apply", action="store_true", help="write what they decided into the test bed")
    command.add_argument("--prefer", default="", help="with --apply: whose decision counts where people disagree")
    command.add_argument(
        "--only-verified", action="store_true", help="with --apply: set aside what nobody accepted or corrected"
    )
    command.add_argument("--log", help="another log than decisions.jsonl in the test bed's folder")


def _run_verify(options) -> str:
    from .testbed.verification.agreement import agreement, disputed, progress
    from .testbed.verification.decisions import DecisionLog, default_log
    from .testbed.verification.outcomes import apply_decisions, summary, with_set_aside

    testbed = load_testbed(options.testbed)
    log = DecisionLog(options.log or default_log(testbed))
    if not options.apply and (options.prefer or options.only_verified):
        raise TestBedError("prefer and only_verified say how decisions are applied: add --apply.")
    if options.apply:
        return summary(apply_decisions(testbed, log, prefer=options.prefer, only_verified=options.only_verified))
    if not log.annotators:
        raise TestBedError(f"{log.path} holds no decision: make some in notebooks/verify.ipynb first.")
    everything = with_set_aside(testbed)
    frames = (progress(everything, log), agreement(everything, log), disputed(everything, log))
    shown = (frame[frame["n"] > 0] if "n" in frame else frame for frame in frames)  # not what nobody marked
    return "\n\n".join(
        frame.to_string(index=False, float_format="{:.2f}".format) for frame in shown if len(frame)
    )


def _corruptions(commands) -> None:
    told = "a replacement phrase for every constraint that has none"
    command = _command(commands, "corruptions", told, _run_corruptions)
    _testbed(command)
    command.add_argument("--model", default="", help="checks that P(answer) falls (empty: chosen without a check)")
    command.add_argument("--tries", type=int, default=8, help="phrases tried for a constraint, at most (8)")
    command.add_argument(
        "--max-p", type=float, default=0.05, help="P(answer) that is low enough, as a share of the clean run's (0.05)"
    )
    command.add_argument("--seed", type=int, default=0, help="which phrases come first")
    command.add_argument("--parts", default="", help="parts of the test bed, separated by commas (empty: all)")
    command.add_argument("--limit", type=int, default=0, help="questions of each part that lack one (0: all)")
    command.add_argument("--overwrite", action="store_true", help="choose anew for all")
    command.add_argument("--results-dir", default="results", help="one file a question: a run that was killed goes on")
    command.add_argument("--dtype", help="as for the notebooks")
    command.add_argument("--device-map", help="as for the notebooks")
    command.add_argument("--remote", action="store_true", help="run on the NDIF server of the environment")


def _run_corruptions(options) -> str:
    from .studies.replacements import choose_corruptions, must_be_possible, write_corruptions

    testbed, model = load_testbed(options.testbed), None
    parts = list(dict.fromkeys(filter(None, map(str.strip, options.parts.split(","))))) or None
    must_be_writable(testbed)  # before minutes of work
    must_be_possible(testbed, tries=options.tries, max_p=options.max_p, parts=parts, limit=options.limit)
    if not options.model and (options.remote or options.dtype or options.device_map):
        raise TestBedError("remote, dtype and device_map say how a model is loaded: add --model.")
    if options.model:
        from .models.loading import load_model  # heavy

        if why := why_not_writable(Path(options.results_dir).expanduser()):  # before minutes of loading weights
            raise TestBedError(f"results_dir: {why}: name a folder that can be written.")
        model = load_model(
            options.model, remote=options.remote, dtype=options.dtype, device_map=options.device_map
        )
    found = choose_corruptions(
        testbed, model, overwrite=options.overwrite, tries=options.tries, max_p=options.max_p, seed=options.seed,
        parts=parts, limit=options.limit, results_dir=options.results_dir,
    )
    write_corruptions(testbed, found)
    told = found.summary().T.dropna(how="all").to_string(header=False, float_format="{:.4f}".format)
    n_new = int(found.choices["status"].isin(("chosen", "unchecked")).sum())
    return f"{told}\n{testbed.directory}: {n_new} phrases written; what each line means: docs/testbeds.md"


def _testbed(command, help: str = "its folder, which is changed") -> None:
    command.add_argument("testbed", help=help)


def _command(commands, name: str, help: str, run: Callable | None = None) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
    if run is not None:
        command.set_defaults(run=run)
    return command


def _images(command) -> None:
    command.add_argument(
        "--images", action="append", required=True, help="a folder of the pictures; may be given several times"
    )


def _choice(command) -> None:
    command.add_argument(
        "--choice", default="first", help="which of several pictures that can be read: first (default) or largest"
    )


def _made(built) -> str:
    """What became of the rows, and where the test bed is."""
    from .testbed.sources.new_testbed import ROWS, summary

    testbed, rows, folders = built
    where = f"{testbed.directory}: {len(testbed)} questions; every row is accounted for in {ROWS}"
    return f"{summary(rows, folders)}\n{where}"
