"""A test bed of the released files' full size, imported: `python -m benchmarks.testbed`.

The sources are made up in the released formats (5,046 + 3,214 + 1,204 rows, a quarter of them with a defect; pictures
of 640 x 480). The baseline opens and decodes every picture that is used, once: the least that an import can do that
lets no broken picture through. Every row is compared with what had to become of it.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import pandas as pd
from PIL import Image

from interventions.testbed import load_testbed
from interventions.testbed.sources.released import import_released

from . import measure
from .synthetic_sources import write_released


def imported(root: Path, out: Path) -> dict:
    """Seconds, MB beyond what the process had before, and the rows; to be run in a process of its own."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    bed, rows, _ = import_released(
        root / "data_constraints", out, images=[root / "images"], films=root / "movies.pkl",
        okvqa_questions=root / "questions.json", okvqa_annotations=root / "annotations.json",
    )
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "mb": (peak - before) / 1024, "rows": rows, "items": len(bed)}


def decode(bed: Path) -> int:
    """Open and decode every picture of a test bed; how many."""
    pictures = {item.image for item in load_testbed(bed)}
    for path in pictures:
        with Image.open(path) as image:
            image.load()
    return len(pictures)


def refuse_wrong(rows: pd.DataFrame, expected: pd.DataFrame) -> None:
    """Ends the command where a row has not become what it had to. Both have part, number and status."""
    both = rows.merge(expected, on=["part", "number"], suffixes=("", "_due"), how="outer", validate="one_to_one")
    wrong = both[both["status"] != both["status_due"]]
    if len(wrong):
        first = wrong.iloc[0]
        raise SystemExit(
            f"{len(wrong)} of {len(both)} rows are not as they must be: row {first['number']} of {first['part']} is "
            f"{first['status']!r}, not {first['status_due']!r}."
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    ratios, memory = [], []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        expected = write_released(root)
        for repeat in range(options.repeats):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                done = pool.apply(imported, (root, root / f"bed{repeat}"))
            seconds, n_pictures = measure.timed(decode, root / f"bed{repeat}")
            ratios.append(done["seconds"] / seconds)
            memory.append(done["mb"])
            refuse_wrong(done["rows"], expected)
            counts = done["rows"]["status"].value_counts()
            print(
                f"{len(done['rows'])} rows: {counts['kept']} kept + {counts['repaired']} repaired + "
                f"{counts['left out']} left out, as they must be; {done['items']} questions, {n_pictures} pictures\n"
                f"  {done['seconds']:.1f} s and {done['mb']:.0f} MB; decoding alone {seconds:.1f} s",
                flush=True,
            )
    measure.save({
        "testbed/import_released/ratio_decoding": measure.spread(ratios),
        "testbed/import_released/memory_mb": measure.spread(memory),
    })


if __name__ == "__main__":
    main()
