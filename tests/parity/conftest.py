"""The comparison with a recording is a test only where a recording is named; its table is printed at the end."""

from __future__ import annotations

from pathlib import Path

import pytest

COMPARISON = "test_against_recording.py"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if collection_path.name == COMPARISON and not (config.getoption("--recorded") or config.getoption("--live")):
        return True  # not collected rather than skipped
    return None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, text in getattr(report, "user_properties", []):
                if name == "parity_table":
                    terminalreporter.write_line(f"\n{text}")
