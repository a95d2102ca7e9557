"""The house stands: imports go down its floors and never in a circle, some rooms do without torch, and the page that
describes it is true."""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOUSE = ROOT / "src" / "linnet"

# From the ground up. A module may import what lies on a lower floor, or in its own folder; the longest name counts.
FLOORS = [
    "errors",
    "step losses metrics timing processes",
    "files progress hub tensor_files",
    "fields text environment report.gallery",
    "config",
    "config_files",
    "run options",
    "data",
    "students",
    "teachers",
    "methods",
    "evaluation deploy training defaults",
    "report",
    "commands",
    "cli __init__",
    "__main__",
]
FLOOR = {name: height for height, names in enumerate(FLOORS) for name in names.split()}
WITHOUT_TORCH = ("text.classes", "text.class_lists", "text.bank", "text.captions", "metrics", "run", "data.images", "data.load", "deploy.predictor", "deploy.text_tower", "commands.embed", "commands.evaluate", "commands.predict", "report.evaluation")  # fmt: skip


def modules() -> dict[str, Path]:
    """Name below ``linnet`` -> file; a package by its ``__init__``'s name."""
    names = {path.relative_to(HOUSE).with_suffix("").as_posix().replace("/", "."): path for path in HOUSE.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for name, path in names.items()}


MODULES = modules()


def imported(name: str) -> Iterator[str]:
    """The modules that one imports, at its top or inside a function; what only type checkers read does not count."""
    tree = ast.parse(MODULES[name].read_text())
    typing_only = {id(node) for block in ast.walk(tree) if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test) for node in ast.walk(block)}  # fmt: skip
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name.removeprefix("linnet.") for alias in node.names if alias.name.startswith("linnet."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "linnet":
            room = (node.module or "").removeprefix("linnet").lstrip(".")
            for alias in node.names:
                inner = f"{room}.{alias.name}".lstrip(".")
                yield inner if inner in MODULES else room or "__init__"


def place(name: str) -> tuple[str, int]:
    """The entry of FLOORS that a module belongs to, and its height."""
    parts = name.split(".")
    entry = next(entry for n in range(len(parts), 0, -1) if (entry := ".".join(parts[:n])) in FLOOR)
    return entry, FLOOR[entry]


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_go_down(name: str):
    entry, height = place(name)
    wrong = [other for other in imported(name) if place(other)[0] != entry and place(other)[1] >= height]
    assert not wrong, f"linnet.{name} imports {wrong}, which do not lie below it"


def test_nothing_imports_in_a_circle():
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a circle: {' -> '.join([*path[path.index(name) :], name])}"
        if name not in done:
            for other in imported(name):
                visit(other, (*path, name))
            done.add(name)

    for name in MODULES:
        visit(name, ())


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_what_runs_on_the_machine_that_predicts_does_without_torch(name: str, run_python: Callable[[str], str]):
    code = f"import sys, linnet.{name}; print([m for m in ('torch', 'timm', 'open_clip') if m in sys.modules])"
    assert run_python(code) == "[]"


def test_no_module_is_called_like_a_public_function():
    """It would take the function's place in the package at its first import."""
    import linnet

    assert not set(linnet.__all__) & set(MODULES)


def test_the_page_about_the_house_is_true():
    page = (ROOT / "docs" / "architecture.md").read_text()
    (tree,) = re.findall(r"```\nsrc/linnet/\n(.*?)```", page, flags=re.DOTALL)
    named, folders = set(), [""]
    for line in tree.splitlines():
        depth, words = (len(line) - len(line.lstrip())) // 2 - 1, re.split(r"  +", line.strip())[0]
        for word in words.split():
            if word.endswith("/"):
                folders[depth + 1 :] = [folders[depth] + word]
                assert (HOUSE / folders[-1]).is_dir(), word
            else:
                named.add(folders[depth] + word)
    files = {path.relative_to(HOUSE).as_posix() for path in HOUSE.rglob("*.py")}
    inner = {file for file in files if file.endswith("/__init__.py")}  # rooms may be told of by their folder
    assert not named - files, "the page names files that are not there"
    assert not files - named - inner, "the page does not name these"
    for path in re.findall(r"`((?:src|tests|docs|recipes|bench|scripts)/[\w./*-]*|[a-z_]+(?:/[a-z_]+)*\.py)`", page):
        assert any((base / path).exists() for base in (ROOT, HOUSE)), f"the page names {path}"
