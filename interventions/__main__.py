"""`python -m interventions record out.ipynb` prints the record of an executed notebook."""

from __future__ import annotations

import argparse
import json
import sys

from .record import RecordError, read_record


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m interventions")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("record", help="print the record of an executed notebook as JSON")
    command.add_argument("notebook", help="a notebook that papermill has run")
    options = parser.parse_args(arguments)
    try:
        content = read_record(options.notebook)
    except RecordError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(content, indent=1, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
