"""The command line of test beds: `python -m interventions testbed …`."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from .source_files import KNOWN_FACTS, KNOWN_RELATIONS


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Put the commands under a parser; each sets `run`, a function of the options that returns what is printed."""
    commands = parser.add_subparsers(dest="action", required=True)
    _released(commands)
    builds = _command(commands, "build", "make a test bed of the original sources").add_subparsers(
        dest="part", required=True
    )
    for add in (_okvqa, _movies, _known, _encyclopedic):
        add(builds)


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
    from .released import import_released

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
    from .build import build_okvqa

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
    from .build import build_movies

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
    from .build import build_known

    return _made(build_known(
        options.out, images=options.images, known=options.known, relations=options.relations, choice=options.choice,
    ))


def _encyclopedic(builds) -> None:
    command = _command(builds, "encyclopedic", "Encyclopedic-VQA's landmarks, facts to insert", _run_encyclopedic)
    command.add_argument("csv", help="train.csv, val.csv or test.csv")
    command.add_argument("out", help="a new folder for the test bed")
    _images(command)


def _run_encyclopedic(options) -> str:
    from .build import build_encyclopedic

    return _made(build_encyclopedic(options.csv, options.out, images=options.images))


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
    from .draft import ROWS, summary

    testbed, rows, folders = built
    where = f"{testbed.directory}: {len(testbed)} questions; every row is accounted for in {ROWS}"
    return f"{summary(rows, folders)}\n{where}"
