"""The README and the pages of docs/ for readers, as one text."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ("figures", "running", "python", "models", "nnsight", "ndif", "testbeds", "choices", "extending")
README = "\n".join(path.read_text() for path in (ROOT / "README.md", *(ROOT / f"docs/{page}.md" for page in PAGES)))
