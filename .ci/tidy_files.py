"""Put trailing whitespace and the end of text files right, and refuse large files; returns 1 when it found anything."""

from __future__ import annotations

import sys
from pathlib import Path

MOST_BYTES = 5_000_000
"""The bundled cells are 4.6 MB and the largest file there should be."""


def tidy(path: Path) -> str | None:
    """Put one file right; returns what was wrong, or None."""
    content = path.read_bytes()
    if len(content) > MOST_BYTES:
        return f"{len(content) / 1e6:.1f} MB, more than {MOST_BYTES / 1e6:.0f} MB: keep it out of the repository"
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:  # not text
        return None
    lines = [line.rstrip() for line in content.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    tidied = b"".join(line + b"\n" for line in lines)
    if tidied == content:
        return None
    path.write_bytes(tidied)
    return "trailing whitespace or end of file put right"


def main(names: list[str]) -> int:
    """Check the named files."""
    findings = {name: tidy(Path(name)) for name in names if not Path(name).is_symlink()}
    for name, finding in findings.items():
        if finding is not None:
            print(f"{name}: {finding}")
    return int(any(findings.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
