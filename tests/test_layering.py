"""Imports point one way, and files stay short enough to read in one go."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MOST_LINES = 400

# A room is a folder of the package or a group of modules at its root. What is not listed is a command (train, cli, the
# folder of the verbs): it may import every room, and only commands may import it.
ROOMS = {
    "base": (
        "errors",
        "paths",
        "batch",
        "input_spec",
        "read_depth",
        "files",
        "h5_files",
        "job_folder",
        "lost",
        "command_line",
        "answers",
        "pages",
        "verb",
        "verbs",
        "memory",
        "quiet",
        "processes",
    ),
    "data": ("data",),
    "distributed": ("distributed",),
    "ops": ("ops",),
    "optim": ("optim", "mindspore_adam"),
    "model": ("model",),
    "tasks": ("tasks",),
    "plots": ("plots",),
    "analysis": ("analysis",),
    "report": ("report",),
    "callbacks": ("callbacks",),
    "convert": ("convert",),
    "annotation": ("annotation", "annotator"),
    "predict": ("predict",),
    "embedding": ("embedding",),
    "gene_tasks": ("gene_tasks",),
    "perturbation": ("perturbation",),
    "drug": ("drug",),
    "enhance": ("enhance",),
    "public": ("__init__",),
}
MAY_IMPORT = {
    "base": {"base"},
    "data": {"base", "data"},
    "distributed": {"base", "distributed"},
    "ops": {"base", "ops"},
    "optim": {"base", "distributed", "optim"},
    "model": {"base", "data", "distributed", "ops", "model"},
    "tasks": {"base", "data", "ops", "optim", "model", "tasks"},
    "plots": {"base", "plots", "analysis"},
    "analysis": {"base", "analysis", "public"},
    "report": {"base", "plots", "analysis", "report", "public"},
    "callbacks": {"base", "distributed", "plots", "callbacks"},
    "convert": {"base", "data", "optim", "model", "tasks", "convert", "public"},
    "predict": {"base", "data", "model", "predict"},
    "annotation": {"base", "data", "optim", "model", "tasks", "callbacks", "embedding", "analysis", "annotation"},
    "embedding": {"base", "data", "model", "callbacks", "embedding", "public"},
    "gene_tasks": {"base", "data", "ops", "optim", "model", "tasks", "plots", "analysis", "gene_tasks", "public"},
    "perturbation": {
        "base",
        "data",
        "ops",
        "optim",
        "model",
        "tasks",
        "callbacks",
        "embedding",
        "plots",
        "analysis",
        "report",
        "perturbation",
        "public",
    },
    "drug": {"base", "data", "model", "tasks", "embedding", "analysis", "drug", "public"},
    "enhance": {"base", "data", "model", "embedding", "analysis", "enhance", "public"},
    "public": {
        "base",
        "data",
        "ops",
        "model",
        "tasks",
        "callbacks",
        "predict",
        "embedding",
        "annotation",
        "gene_tasks",
        "perturbation",
        "drug",
        "enhance",
        "analysis",
        "report",
        "public",
    },
}
MAY_IMPORT["commands"] = {*MAY_IMPORT, "commands"}
ROOM_OF = {module: room for room, modules in ROOMS.items() for module in modules}
FILES = [*sorted((ROOT / "cellfm_torch").rglob("*.py")), *sorted((ROOT / "convert").glob("*.py"))]
OTHER_FILES = [file for folder in ("tests", "benchmarks") for file in sorted((ROOT / folder).rglob("*.py"))]


def dotted(file: Path) -> str:
    """Name a file is imported by, with ``__init__`` where it is one."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(("cellfm_torch", *parts) if parts[0] == "convert" else parts)


MODULES = {dotted(file): file for file in FILES}


def room(module: str) -> str:
    """Room of a module or of a package, by dotted name."""
    parts = module.split(".")
    return ROOM_OF.get(parts[1] if len(parts) > 1 else "__init__", "commands")


def imported(file: Path) -> set[str]:
    """Modules of the project a file imports, wherever in the file and whether at run time or for types only."""
    here = dotted(file).split(".")
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here[: -node.level]) if node.level else ""
            source = ".".join(filter(None, (base, node.module)))
            for alias in node.names:
                module = f"{source}.{alias.name}"
                found.add(module if module in MODULES or f"{module}.__init__" in MODULES else source)
    found = {f"cellfm_torch.{name}" if name.split(".")[0] == "convert" else name for name in found}
    return {name for name in found if name.split(".")[0] == "cellfm_torch"}


def test_every_room_is_seen() -> None:
    assert {room(name) for name in MODULES} == MAY_IMPORT.keys()
    assert imported(ROOT / "convert" / "ms2pt.py") >= {"cellfm_torch.convert.conversion", "cellfm_torch.errors"}


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module: str) -> None:
    allowed = MAY_IMPORT[room(module)]
    wrong = sorted(name for name in imported(MODULES[module]) if room(name) not in allowed)
    assert not wrong, f"{module} is in room '{room(module)}' and must not import {', '.join(wrong)}"


@pytest.mark.parametrize(
    "file", [*FILES, *sorted((ROOT / "tests").rglob("*.py")), *(ROOT / "benchmarks").rglob("*.py")]
)
def test_files_are_short(file: Path) -> None:
    lines = len(file.read_text(encoding="utf-8").splitlines())
    assert lines < MOST_LINES, f"{file.relative_to(ROOT)} has {lines} lines: split it by what it does"
