"""What CI makes of an answer of pip-audit."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", Path(__file__).parents[1] / ".ci" / "audit.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def package(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "version": "1.0", "vulns": []} | more


UNKNOWN = {"name": "torch", "skip_reason": "not on PyPI"}
MENDED = package("a", vulns=[{"id": "PYSEC-1", "fix_versions": ["1.1"]}])
OPEN = package("b", vulns=[{"id": "PYSEC-2", "fix_versions": []}])


@pytest.mark.parametrize(
    ("packages", "code", "says"),
    [
        ([package("a"), UNKNOWN], 0, "1 packages looked up, 0 vulnerabilities, 1 could not be looked up"),
        ([MENDED, package("c")], 1, "a 1.0: PYSEC-1, mended in 1.1: raise it (make lock)"),
        ([OPEN], 0, "b 1.0: PYSEC-2, mended nowhere yet"),
        ([UNKNOWN], 0, "the service knows none of 1 packages here; nothing was looked at"),
    ],
)
def test_answers(packages: list[dict[str, Any]], code: int, says: str, audit: ModuleType) -> None:
    found, lines = audit.judge(json.dumps({"dependencies": packages}))
    assert (found, lines[0]) == (code, says)


@pytest.mark.parametrize("said", [None, "", "ERROR: connection refused", "[]", "{}"])
def test_no_answer_is_one_line_and_no_failure(said: str | None, audit: ModuleType) -> None:
    assert audit.judge(said) == (0, ["the service does not answer; nothing was looked at"])


def test_what_was_accepted(audit: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(audit.ACCEPTED, "PYSEC-1", "that part is not used")
    assert audit.judge(json.dumps({"dependencies": [MENDED]})) == (0, ["1 packages looked up, 0 vulnerabilities"])
