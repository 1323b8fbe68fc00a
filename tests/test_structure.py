"""The order of the folders: no import runs backwards, no sister imports another, no folder is too large."""

import ast
from pathlib import Path

import pytest

import interventions

PACKAGE = Path(interventions.__file__).parent
# Each level may import those before it. Folders of one level do not import each other.
ORDER = [
    ["ground"],  # the modules at the top of the package
    ["testbed"],
    ["prompts"],
    ["remote"],
    ["engine"],
    ["models"],
    ["studies"],
    ["tracing", "attention", "editing"],
    ["reports"],
    ["claims"],
    ["plots"],
    ["explorer"],
    ["commands"],  # commands.py and __main__.py
]
LEVEL = {folder: level for level, folders in enumerate(ORDER) for folder in folders}
MOST_MODULES = 13
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def folder(module: Path) -> str:
    """The folder of a module, which is a path without suffix below the package."""
    first = module.parts[0]
    if (PACKAGE / first).is_dir():
        return first
    return "commands" if first in ("commands", "__main__") else "ground"


def imported(path: Path) -> list[Path]:
    """The modules of this package that a file imports, those inside functions included."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            start = path.parents[node.level - 1].relative_to(PACKAGE)
            start = start.joinpath(*node.module.split(".")) if node.module else start
            # `from . import name`: a module of that name, or something in __init__.py
            for name in [alias.name for alias in node.names]:
                below = PACKAGE / start / name
                found.append(start / name if below.is_dir() or below.with_suffix(".py").exists() else start)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "interventions":
            raise AssertionError(f"{path}, line {node.lineno}: write a relative import")
    return [module for module in found if module != Path()]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_order_of_the_folders(path):
    here = folder(path.relative_to(PACKAGE).with_suffix(""))
    assert here in LEVEL, f"add the folder {here} to ORDER"
    for module in imported(path):
        there = folder(module)
        assert there == here or LEVEL[there] < LEVEL[here], f"{here} imports {module}"


def test_no_modules_import_each_other():
    graph = {}
    for path in MODULES:
        name = path.relative_to(PACKAGE).with_suffix("")
        graph[name.parent if name.name == "__init__" else name] = set(imported(path))
    while leaves := [module for module, needed in graph.items() if not needed & graph.keys()]:
        for module in leaves:
            del graph[module]
    assert not graph, "modules that import each other, or import such modules: " + ", ".join(sorted(map(str, graph)))


@pytest.mark.parametrize("folder", [PACKAGE, *sorted({path.parent for path in MODULES} - {PACKAGE})],
                         ids=lambda path: path.name)
def test_no_folder_has_more_than_a_dozen_modules(folder):
    modules = [path.stem for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert len(modules) <= MOST_MODULES, sorted(modules)
