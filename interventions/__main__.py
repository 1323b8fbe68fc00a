"""`python -m interventions record out.ipynb` prints the record of an executed notebook; `convert bunny SRC DST` makes a
native LLaVA of a Bunny checkpoint;
`preflight --model mini` asks an NDIF server whether it is ready for a model; `pages reports/mini` makes HTML pages of a
folder of executed notebooks; `testbed …` makes test beds of downloaded sources."""

from __future__ import annotations

import argparse
import json
import sys

from .commands import add_commands
from .errors import InterventionsError


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m interventions")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("record", help="print the record of an executed notebook as JSON")
    command.add_argument("notebook", help="a notebook that papermill has run")
    command = commands.add_parser("convert", help="write a checkpoint as a native LLaVA")
    command.add_argument("layout", choices=["bunny"], help="whose key layout the checkpoint has")
    command.add_argument("source", help="its folder")
    command.add_argument("destination", help="a new folder")
    command.add_argument("--vision-heads", type=int, default=0, help="attention heads of an unknown vision tower")
    command.add_argument("--vision-layers", type=int, default=0, help="layers of an unknown vision tower, all of them")
    command = commands.add_parser("preflight", help="is the NDIF server of the environment ready for a model?")
    command.add_argument("--model", required=True, help="an alias, a directory that the server sees, or a Hub id")
    command = commands.add_parser("pages", help="executed notebooks as HTML pages, and an index of them")
    command.add_argument("directory", help="their folder, such as reports/mini")
    add_commands(commands.add_parser("testbed", help="import, build, annotate, verify and complete test beds"))
    options = parser.parse_args(arguments)
    answers = {"record": _record, "convert": _convert, "preflight": _preflight, "pages": _pages}
    try:
        printed = (options.run if options.command == "testbed" else answers[options.command])(options)
    except KeyboardInterrupt:  # who can be interrupted has said what is kept
        return 130
    except InterventionsError as error:
        print(error, file=sys.stderr)
        return 1
    print(printed)
    return 0


def _record(options: argparse.Namespace) -> str:
    from .reports.record import read_record  # pandas

    return json.dumps(read_record(options.notebook), indent=1, ensure_ascii=False)


def _convert(options: argparse.Namespace) -> str:
    from .models.bunny import convert_bunny  # heavy

    heads, layers = options.vision_heads, options.vision_layers
    done = convert_bunny(options.source, options.destination, vision_heads=heads, vision_layers=layers)
    return "\n".join(done)


def _preflight(options: argparse.Namespace) -> str:
    from .models.loading import load_model  # heavy

    return "\n".join(load_model(options.model, remote=True).server.answers)


def _pages(options: argparse.Namespace) -> str:
    from .reports.page import build_pages  # heavy

    return str(build_pages(options.directory))


if __name__ == "__main__":
    sys.exit(main())
