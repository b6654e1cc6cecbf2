"""The house has floors: a file imports only from below. DESIGN section 2 as a table, and the arrows that prove it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src" / "manyheads"

FLOORS = (
    "_version faults files stopping yaml12 catalog gradients blocks copies ragged metrics results statistics verdicts "
    "scoretable ranges",
    "pictures words exhibits tasks encoders balance penalties",
    "data sharing augment",
    "model spec",
    "evaluate adaptation objectives penalised modelfile problems config gates",
    "optim callback train stacking ledger parallel members build sieve intake",
    "baselines compare grouping affinity transfer growing tune deliver report",
    "commands later learner cli __main__",
)
"""From the ground up. On one floor, too, what stands later may import what stands earlier, not the reverse."""

RANK = {name: i for i, name in enumerate(" ".join(FLOORS).split())}
PLACE = {name: floor for floor, line in enumerate(FLOORS) for name in line.split()}

FLOOR_0_MAY_KNOW = {"torch", "numpy", "scipy", "pydantic", "yaml", "manyheads"}
REPORT_MAY_IMPORT = {"results", "report"}


def _unit(path: Path) -> str:
    """The folder or the file that stands in the table."""
    parts = path.relative_to(SRC).parts
    return parts[0] if len(parts) > 1 else path.stem


def _files() -> list[Path]:
    return [p for p in sorted(SRC.rglob("*.py")) if p != SRC / "__init__.py"]


def _is_typing(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def _imports(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it, by its full name; not what only type checkers see."""
    package = ["manyheads", *path.relative_to(SRC).parent.parts]
    found: set[str] = set()
    todo: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if _is_typing(node):
            todo += node.orelse  # type: ignore[attr-defined]
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from . import metrics` names modules, `from .metrics import Metric` what is in one
            found |= {f"{module}.{a.name}" for a in node.names} if _is_package(module) else {module}
        todo += ast.iter_child_nodes(node)
    return found


def _is_package(module: str) -> bool:
    parts = module.split(".")
    return parts[0] == "manyheads" and (SRC.joinpath(*parts[1:]) / "__init__.py").exists()


def _ours(path: Path) -> set[str]:
    """The units of the table that a file imports from."""
    return {name.split(".")[1] for name in _imports(path) if name.startswith("manyheads.")} - {_unit(path)}


@pytest.mark.parametrize("path", _files(), ids=lambda p: str(p.relative_to(SRC)))
def test_a_file_imports_only_from_below(path):
    unit = _unit(path)
    assert unit in RANK, f"`{unit}` has no floor. Give it one in FLOORS, the lowest from which it sees all it imports."
    for other in _ours(path):
        if other.startswith("__"):
            continue
        assert other in RANK, f"`{unit}` imports `{other}`, which has no floor."
        assert RANK[other] < RANK[unit], (
            f"`{unit}` (floor {PLACE[unit]}) imports `{other}` (floor {PLACE[other]}): a file imports only from below."
        )


@pytest.mark.parametrize("folder", sorted(p.parent.name for p in SRC.glob("*/__init__.py")))
def test_files_of_a_folder_do_not_import_each_other_in_a_circle(folder):
    prefix = f"manyheads.{folder}"
    graph = {}
    for path in (SRC / folder).rglob("*.py"):
        name = ".".join(["manyheads", *path.relative_to(SRC).with_suffix("").parts]).removesuffix(".__init__")
        top = {n for n in _top_level(path) if n.startswith(prefix)}
        modules = {n for n in top if SRC.joinpath(*n.split(".")[1:]).with_suffix(".py").exists()}
        graph[name] = modules | ({prefix} if top - modules else set()) - {name}
    seen: dict[str, int] = {}

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail, name])
        if name not in seen:
            for other in graph.get(name, ()):
                visit(other, (*trail, name))
            seen[name] = 1

    for name in graph:
        visit(name, ())


def _top_level(path: Path) -> set[str]:
    """What is imported when the file is."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = ["manyheads", *path.relative_to(SRC).parent.parts]
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.level:
            module = ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])
            found |= {f"{module}.{a.name}" for a in node.names} if _is_package(module) else {module}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{a.name}" for a in node.names} if _is_package(node.module) else {node.module}
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
    return found


@pytest.mark.parametrize("name", FLOORS[0].split())
def test_the_ground_floor_knows_little(name):
    files = [p for p in _files() if _unit(p) == name]
    assert files
    known = set(sys.stdlib_module_names) | FLOOR_0_MAY_KNOW
    assert not {n.split(".")[0] for p in files for n in _imports(p)} - known


@pytest.mark.parametrize("path", sorted((SRC / "report").glob("*.py")), ids=lambda p: p.name)
def test_the_report_imports_results_only(path):
    assert _ours(path) <= REPORT_MAY_IMPORT
    assert "torch" not in {n.split(".")[0] for n in _imports(path)}


def test_results_statistics_and_the_report_never_load_torch():
    """Asked from a fresh interpreter, so that an import of an import counts."""
    program = (
        "import sys\n"
        "import manyheads.faults, manyheads.catalog, manyheads.results, manyheads.scoretable, manyheads.report\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": str(SRC.parent)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr or "torch was loaded"
