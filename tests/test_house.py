"""The habits of the house, as far as a machine can see them."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SRC = ROOT / "src" / "manyheads"
sys.path.insert(0, str(ROOT / "tests" / "laws"))

from cases import GIVEN, KINDS, SETTINGS, catalogue, missing_arguments  # noqa: E402

from manyheads.catalog import find, index, word  # noqa: E402
from manyheads.tasks import Task  # noqa: E402

LINES = 450
LONGER: dict[str, int] = {}
"""Files that are longer than a file should be, and the length that they may not exceed until they are divided."""

NO_WORDS_NEEDED = {"forward", "reset_parameters"}
"""Methods that torch calls, documented by their class."""

FILES = sorted(SRC.rglob("*.py"))


def _name(path: Path) -> str:
    return str(path.relative_to(SRC))


def test_no_two_files_of_tests_have_one_name():
    """Without packages, Python takes the second for the first."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py")]
    assert not {name for name in names if names.count(name) > 1}


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_a_file_is_short(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGER.get(_name(path), LINES)


def test_the_list_of_long_files_is_not_longer_than_it_must_be():
    for name in LONGER:
        assert len((SRC / name).read_text(encoding="utf-8").splitlines()) > LINES, f"{name} is short now: strike it off"


@pytest.mark.parametrize("path", [p for p in FILES if p.stem not in ("_version", "__main__")], ids=_name)
def test_everything_public_has_a_docstring(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    missing = [] if not text.strip() or ast.get_docstring(tree) else ["the file itself"]
    parts = ["manyheads", *path.relative_to(SRC).with_suffix("").parts]
    module = importlib.import_module(".".join(parts).removesuffix(".__init__"))
    for node in tree.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef) or node.name.startswith("_"):
            continue
        if not ast.get_docstring(node):
            missing.append(node.name)
        if isinstance(node, ast.ClassDef):
            cls = getattr(module, node.name)
            missing += [
                f"{node.name}.{member.name}"
                for member in node.body
                if isinstance(member, ast.FunctionDef)
                and not member.name.startswith("_")
                and member.name not in NO_WORDS_NEEDED
                and not inspect.getdoc(inspect.getattr_static(cls, member.name, None))
                and not _documented_above(cls, member.name)
            ]
    assert not missing


def _documented_above(cls: type, name: str) -> bool:
    return any(
        inspect.getdoc(inspect.getattr_static(base, name, None)) for base in cls.__mro__[1:] if name in vars(base)
    )


def _texts() -> list[Path]:
    kept = [p for folder in ("src", "tests", "docs", "benchmarks", ".ci") for p in (ROOT / folder).rglob("*")]
    kept += ROOT.glob("*.md")
    kept += ROOT.glob("*.toml")
    text = {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".html", ".jinja", ".css", ".txt", ".csv", ".sh", ""}
    return [p for p in kept if p.is_file() and p.suffix in text and "__pycache__" not in p.parts]


def test_no_paths_of_somebodys_machine():
    roots = "|".join(["work", "home", "root", "Users", "mnt"])
    pattern = re.compile(rf"(?<![\w.])/(?:{roots})/\w|[A-Z]:\\Users")
    found = []
    for path in _texts():
        for i, line in enumerate(path.read_text(encoding="utf-8", errors="ignore").splitlines(), 1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{i}: {line.strip()[:80]}")
    assert not found


# -- the catalogue


CONTRACTS = list(GIVEN)


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda c: c.__name__)
def test_every_class_of_a_catalogue_is_exercised(contract):
    words = index(contract)
    assert words
    for name in words:
        missing = missing_arguments(contract, name)
        assert not missing, f"`{name}` needs {missing}: give an example in SETTINGS of tests/laws/cases.py."
    assert {c.word for c in catalogue(contract)} == set(words)
    stale = set(SETTINGS.get(contract, {})) - set(words)
    assert not stale, f"SETTINGS of tests/laws/cases.py name {stale}, which no longer exist."


def test_every_task_type_has_labels_to_try():
    assert set(KINDS) == set(index(Task)), "Give the new type a Kind in tests/laws/cases.py."


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda c: c.__name__)
def test_a_word_is_its_class_and_back(contract):
    for name in index(contract):
        cls = find(contract, name)
        assert word(cls) == name == cls.__name__.lower()
        assert find(contract, name.upper()) is cls
        assert not inspect.isabstract(cls)


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda c: c.__name__)
def test_the_index_is_what_python_sees(contract):
    """Reading the files finds the same classes as importing them all."""
    folder = Path(inspect.getfile(contract)).parent
    if hasattr(sys.modules[contract.__module__], "__path__"):
        for path in folder.glob("[!_]*.py"):
            importlib.import_module(f"{contract.__module__}.{path.stem}")
    classes, todo = set(), [contract]
    while todo:
        for cls in todo.pop().__subclasses__():
            todo.append(cls)
            if (
                cls.__module__.startswith("manyheads.")
                and not cls.__name__.startswith("_")
                and not inspect.isabstract(cls)
            ):
                classes.add(cls.__name__.lower())
    assert classes == set(index(contract))


def test_an_unknown_word_gets_a_hint():
    for contract in CONTRACTS:
        known = next(iter(index(contract)))
        with pytest.raises(ValueError, match=f"`{known}`"):
            find(contract, known + "x")


def test_a_foreign_class_is_known_by_its_path():
    assert find(Task, "manyheads.tasks.regression:Regression") is find(Task, "regression")
    with pytest.raises(ValueError, match="should name a Task"):
        find(Task, "manyheads.blocks:Named")


def test_every_contract_with_a_catalogue_has_laws():
    """An abstract class of a folder's (or an objective's) contract is listed in GIVEN of tests/laws/cases.py."""
    known = {c.__name__ for c in GIVEN}
    for path in SRC.glob("*/__init__.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            abstract = isinstance(node, ast.ClassDef) and "ABC" in {ast.unparse(b) for b in node.bases}
            assert not abstract or node.name in known, f"{node.name} has no laws."
