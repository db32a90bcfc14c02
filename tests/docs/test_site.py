"""The site is built with warnings as errors; what the code has, the site has; headings quote messages that exist."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cellfm_torch

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; mkdocs refuses broken links, missing anchors and pages that are in no menu."""
    pytest.importorskip("mkdocs", reason="pip install 'cellfm_torch[docs]'")
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    # The package is read from this checkout, whatever else is installed.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_everything_public_is_there(site: Path) -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in (site / "api").glob("*.html"))
    missing = [name for name in cellfm_torch.__all__ if f'id="cellfm_torch.{name}"' not in text]
    assert not missing
    # The page of a class has its methods, their arguments and its source.
    assert 'id="cellfm_torch.CellBatch.from_padded"' in text and "Source code in" in text


@pytest.mark.slow
def test_every_command_and_measurement_has_a_page(site: Path) -> None:
    from cellfm_torch.verb import Group
    from cellfm_torch.verbs import VERBS

    for name, verb in VERBS.items():
        for page in [f"{name}-{second}" for second in verb.verbs] if isinstance(verb, Group) else [name]:
            assert (site / "commands" / f"{page}.html").is_file(), page
    for file in (ROOT / "benchmarks" / "results").glob("*.md"):
        assert (site / "performance" / f"{file.stem}.html").is_file(), file
    assert "Unreleased" in (site / "changelog.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    fetched = re.compile(r'(?:src|href)="(https?:[^"]+)"')
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        tags = re.findall(r"<(?:script|img|iframe|link)\b[^>]*>", text)
        assert not [found for tag in tags if (found := fetched.search(tag))], page


def messages() -> list[str]:
    """Return the texts of the code, with dots where a value is put in."""
    found = []
    for file in [*(ROOT / "cellfm_torch").rglob("*.py"), *(ROOT / "convert").glob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                found.append("".join(v.value if isinstance(v, ast.Constant) else "\n" for v in node.values))
    return [*found, (ROOT / ".ci" / "setup-venv").read_text(encoding="utf-8")]


@pytest.mark.parametrize("page", sorted((DOCS / "troubleshooting").glob("*.md")), ids=lambda page: page.stem)
def test_headings_quote_messages(page: Path) -> None:
    known = messages()
    for quoted in re.findall(r"^##+ `([^`]+)`", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
        parts = [re.escape(part.strip()) for part in quoted.split("…") if part.strip()]
        assert any(re.search(".*".join(parts), text, re.DOTALL) for text in known), f"no message says '{quoted}'"


def test_pages_that_errors_name() -> None:
    themes = {"install", "cells", "genes", "models", "training", "tasks", "files", "command-line"}
    assert themes | {"index"} == {page.stem for page in (DOCS / "troubleshooting").glob("*.md")}
