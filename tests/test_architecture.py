"""The house: who may import whom, who may read the clock, what may never be used."""

from __future__ import annotations

import ast
import gc
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "windfall"
#: Each imports only from those after it.
ORDER = [
    "__main__",
    "cli",
    "ui",
    "view",
    "run",
    "simulate",
    "federation",
    "fleet",
    "site",
    "wire",
    "policy",
    "energy",
    "train",
    "grid",
    "store",
    "config",
    "processes",
    "proxies",
    "revision",
    "faults",
    "inputs",
    "clock",
    "units",
    "errors",
]
#: The ground floor, which everybody may use.
GROUND = ORDER[ORDER.index("config") + 1 :]
FILES = sorted(SRC.rglob("*.py"))


def package(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return parts[0]


@cache
def parsed(path: Path) -> ast.Module:
    """Once for all tests that look."""
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """All of a file's syntax."""
    return tuple(ast.walk(parsed(path)))


@cache
def imports(path: Path) -> frozenset[str]:
    """Absolute module names that a file imports, anywhere in it."""
    found = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            found |= {f"{node.module}.{a.name}" for a in node.names}
    return frozenset(found)


@pytest.fixture(autouse=True, scope="module")
def _syntax_is_no_garbage() -> Iterator[None]:
    """While it is looked at, nobody looks for garbage in it, which would take longer than all else here; then it is let go of."""
    gc.disable()
    yield
    for kept in (parsed, nodes, imports, needed):
        kept.cache_clear()
    gc.enable()


def test_packages_import_only_from_those_below_them() -> None:
    wrong = []
    for path in FILES:
        own = package(path)
        if own == "__init__":
            continue
        for name in imports(path):
            if name.startswith("windfall."):
                other = name.split(".")[1]
                if other in ORDER and other != own and ORDER.index(other) < ORDER.index(own):
                    wrong.append(f"{path.relative_to(SRC)} imports {name}")
    assert wrong == []


def module(path: Path) -> str:
    parts = path.relative_to(SRC.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path) for path in FILES}


@cache
def needed(path: Path) -> frozenset[str]:
    """Modules of ours that a file imports when it runs: those in functions count, those that only type checkers see do not."""
    found: set[str] = set()

    def look(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                look(other)
            return
        if isinstance(node, ast.Import):
            found.update(a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{a.name}" for a in node.names}
            found.update(n if n in MODULES else str(node.module) for n in names)
        for child in ast.iter_child_nodes(node):
            look(child)

    look(parsed(path))
    return frozenset(found & MODULES - {module(path)})


def test_no_modules_import_each_other_in_a_circle() -> None:
    try:
        graphlib.TopologicalSorter({module(path): needed(path) for path in FILES}).prepare()
    except graphlib.CycleError as e:
        raise AssertionError(" imports ".join(reversed(e.args[1]))) from None


def test_no_two_classes_have_one_name() -> None:
    places: dict[str, list[str]] = {}
    for path in FILES:
        for node in parsed(path).body:
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name.lstrip("_"), []).append(module(path))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_drivers_are_constructed_in_one_place() -> None:
    kinds = {m for m in MODULES if m.startswith("windfall.fleet.drivers.")} - {"windfall.fleet.drivers.build"}
    users = {module(path) for path in FILES if needed(path) & kinds}
    assert "windfall.fleet.drivers.local" in kinds
    assert users - kinds == {"windfall.fleet.drivers.build"}


def test_every_package_has_its_place_in_the_order() -> None:
    assert {package(p) for p in FILES} - {"__init__"} <= set(ORDER)


@pytest.mark.parametrize(
    ("own", "may"),
    [
        # Both ends speak it, so it may know neither.
        ("wire", {"store", "config", *GROUND}),
        # A site's machine needs nothing else of ours.
        (
            "site",
            {"wire", "train", "energy", "grid", "store", "config", *GROUND} - {"revision"},
        ),
    ],
)
def test_both_ends_and_the_wire_between_them_know_only_what_they_need(own: str, may: set[str]) -> None:
    wrong = [
        f"{path.relative_to(SRC)} imports {name}"
        for path in FILES
        for name in imports(path)
        if package(path) == own and name.startswith("windfall.") and name.split(".")[1] not in may | {own}
    ]
    assert wrong == []


def test_only_the_clock_reads_the_machines_clock() -> None:
    wrong = [
        str(p.relative_to(SRC)) for p in FILES
        if p.name != "clock.py" and imports(p) & {"time", "time.time", "time.monotonic", "time.sleep"}
    ]  # fmt: skip
    wrong += [str(p) for p in FILES if "datetime.now" in p.read_text() or "utcnow" in p.read_text()]
    assert wrong == []


#: What a statement begins with, or says of a table, in a text of a program.
STATEMENT = re.compile(
    r"\b(SELECT\b.+\bFROM|INSERT\b.+\bINTO|UPDATE\b.+\bSET|DELETE FROM|(CREATE|ALTER|DROP) TABLE)\b|\bPRAGMA\b", re.DOTALL
)


def test_statements_of_databases_stand_in_the_store_alone() -> None:
    wrong = []
    for path in FILES:
        for node in nodes(path) if package(path) != "store" else ():
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and STATEMENT.search(node.value):
                wrong.append(f"{path.relative_to(SRC)}:{node.lineno}")
    assert wrong == []


def test_nothing_is_pickled() -> None:
    for p in FILES:
        assert not imports(p) & {"pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}, p
        text = p.read_text(encoding="utf-8")
        assert "torch.load(" not in text, p
        assert "torch.save(" not in text, p
        assert "allow_pickle" not in text, p


@pytest.mark.parametrize(
    ("module", "never"),
    [
        ("windfall.cli.main", {"torch", "flwr", "pydantic", "numpy", "matplotlib"}),
        ("windfall.cli.status", {"torch", "flwr", "pydantic", "matplotlib"}),
        ("windfall.site.client_app", {"torch", "windfall.train"}),
        ("windfall.run.coordinator", {"torch"}),
        ("windfall.run.endpoint_process", {"torch", "flwr", "numpy", "pydantic", "httpx"}),
        ("windfall.site.agent", {"torch", "flwr", "numpy"}),
    ],
)
def test_what_must_start_fast_or_stay_small_imports_nothing_heavy(module: str, never: set[str]) -> None:
    code = f"import sys, {module}; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not never & set(done.stdout.split())


def test_non_public_flower_is_imported_where_a_contract_test_looks() -> None:
    public = {"flwr.app", "flwr.clientapp"}
    for p in FILES:
        if p.name in {"flower_attach.py", "flower_executor.py"}:
            continue
        for name in imports(p):
            if name.split(".")[0] == "flwr":
                assert any(name == x or name.startswith(x + ".") for x in public), f"{p}: {name}"
