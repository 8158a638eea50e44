"""The lab's rooms stand on floors: a file imports from its own room and from those below, never from above."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import adabelief.lab

LAB = Path(adabelief.lab.__file__).parent
FLOORS = (
    *("files", "console", "processor", "catalogue", "trainer", "schedules", "values", "task", "optimizers", "models"),
    *("data", "tasks", "engine", "analysis", "search", "compare", "report", "demo", "listings", "scales", "doctor"),
    *("endings", "arguments", "tuning", "comparing", "commands"),
)
"""From the ground upwards."""

FILES = {".".join(path.relative_to(LAB).with_suffix("").parts): path for path in sorted(LAB.rglob("*.py"))}
MODULES = [name for name in FILES if not name.endswith("__init__")]


def imported(tree):
    """The modules of the lab that some code imports, early or late, without the lab's own name before theirs."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    inside = [name.removeprefix("adabelief.lab.") for name in names if name.startswith("adabelief.lab.")]
    return {name if name in FILES else name.rpartition(".")[0] or name for name in inside}


def room(module):
    return module.partition(".")[0]


def test_every_room_has_a_floor():
    assert {room(module) for module in MODULES} == set(FLOORS)


@pytest.mark.parametrize("module", MODULES)
def test_no_import_runs_up(module):
    above = FLOORS[FLOORS.index(room(module)) + 1 :]
    assert not [name for name in imported(ast.parse(FILES[module].read_text())) if room(name) in above]


def test_no_import_goes_round():
    graph = {module: imported(ast.parse(FILES[module].read_text())) for module in MODULES}
    assert len([*TopologicalSorter(graph).static_order()]) >= len(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_no_import_for_types_alone_stands_in_for_one(module):
    checks = [node for node in ast.walk(ast.parse(FILES[module].read_text())) if isinstance(node, ast.If)]
    for_types = [node for node in checks if "TYPE_CHECKING" in ast.unparse(node.test)]
    assert not [name for node in for_types for name in imported(node)]
