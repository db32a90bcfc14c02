"""Ask pip-audit for known vulnerabilities of what is installed; returns 1 where one has been mended in a newer version.

A service that does not answer is said in one line and fails nothing: it says nothing about the change.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

SECONDS = 300.0

ACCEPTED: dict[str, str] = {}
"""Vulnerabilities that are none here, by their id, and why."""


def ask() -> str | None:
    """Return what pip-audit prints, or None where it took too long."""
    asked = [sys.executable, "-m", "pip_audit", "--local", "--skip-editable", "--progress-spinner", "off"]
    try:
        done = subprocess.run([*asked, "--format", "json"], capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return None
    return done.stdout


def judge(said: str | None) -> tuple[int, list[str]]:
    """Return an exit code, and what is to be said of an answer of pip-audit."""
    try:
        packages: list[dict[str, Any]] = json.loads(said or "")["dependencies"]
    except (ValueError, KeyError, TypeError):
        return 0, ["the service does not answer; nothing was looked at"]
    seen = [package for package in packages if "skip_reason" not in package]
    if not seen:
        return 0, [f"the service knows none of {len(packages)} packages here; nothing was looked at"]
    lines, code = [], 0
    for package in seen:
        for found in package["vulns"]:
            if found["id"] in ACCEPTED:
                continue
            mended = ", ".join(found["fix_versions"])
            code = 1 if mended else code
            what = f"mended in {mended}: raise it (make lock)" if mended else "mended nowhere yet"
            lines.append(f"{package['name']} {package['version']}: {found['id']}, {what}")
    missed = len(packages) - len(seen)
    also = f", {missed} could not be looked up" if missed else ""
    return code, [*lines, f"{len(seen)} packages looked up, {len(lines)} vulnerabilities{also}"]


if __name__ == "__main__":
    exit_code, said_of_it = judge(ask())
    print("\n".join(f"audit: {line}" for line in said_of_it))
    sys.exit(exit_code)
