"""Runs the code of a page of the documentation, block after block in one folder, as a reader would type it.

Blocks of ``bash`` and ``python`` are run, others are not. Commands of ``cellfm`` run in this process, which saves the
start of an interpreter for each. A ``text`` block right after a block that is run shows what it prints, without lines
of progress; to make it anew, at the size that the page has, in a folder that holds runs/pretrain/model:

    python tests/docs/walk.py docs/tutorials/embed.md --write
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellfm_torch import cli

BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRESS = re.compile(
    r"(\w+ )*[\d,]+/[\d,]+( .*(\bleft\b.*|\bin \d+:\d+|cells/s))?"  # a bar, where nobody watches
    r"|([\w% ]+, )?seed \d+: .*|split \d+ of \d+: .*"  # which method it is at
)


@dataclass(frozen=True)
class Block:
    """Code of a page: in which language, and on which line of the page its fence stands."""

    language: str
    code: str
    line: int


def blocks(text: str) -> Iterator[Block]:
    """Yield the blocks of a page that are run."""
    for found in BLOCK.finditer(text):
        if found[1] in ("bash", "python"):
            yield Block(found[1], found[2], text.count("\n", 0, found.start()) + 1)


def commands(code: str) -> Iterator[list[str]]:
    """Yield the words of each command of a bash block; only ``cellfm`` is run on pages."""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] != "cellfm":
            raise ValueError(f"{line!r}: a bash block holds commands of cellfm; show others in a block of sh")
        if words:
            yield words[1:]


def run(block: Block, page: str, names: dict[str, Any], more: Mapping[str, Sequence[str]]) -> None:
    """Run a block; `more` has further words by verb, such as fewer steps."""
    if block.language == "python":
        # The line numbers of a traceback are those of the page.
        exec(compile("\n" * block.line + block.code, page, "exec"), names)
        return
    for words in commands(block.code):
        verb = next((verb for verb in (" ".join(words[:2]), words[0]) if verb in more), None)
        code = cli.main([*words, *more.get(verb or "", ())])
        assert code == 0, f"{page}, line {block.line}: cellfm {shlex.join(words)} ended with {code}"


def walk(page: Path, more: Mapping[str, Sequence[str]] | None = None) -> list[str]:
    """Run a page in the current folder; returns what each block printed."""
    names: dict[str, Any] = {"__name__": page.stem}
    printed = []
    for block in blocks(page.read_text(encoding="utf-8")):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            run(block, page.name, names, more or {})
        printed.append(out.getvalue())
    return printed


def rewritten(text: str, printed: Sequence[str]) -> str:
    """Return a page with what its blocks printed in the text blocks that follow them directly."""
    parts, end, shown = [], 0, iter(printed)
    last: tuple[int, str] | None = None
    for found in BLOCK.finditer(text):
        if found[1] in ("bash", "python"):
            last = found.end(), next(shown)
        elif found[1] == "text" and last is not None and not text[last[0] : found.start()].strip():
            lines = [line.rstrip() for line in last[1].splitlines() if not PROGRESS.fullmatch(line.strip())]
            parts += [text[end : found.start(2)], "\n".join(lines).strip("\n"), "\n"]
            end = found.end(2)
    return "".join([*parts, text[end:]])


if __name__ == "__main__":
    for name in (word for word in sys.argv[1:] if word != "--write"):
        made = walk(Path(name))
        if "--write" in sys.argv:
            Path(name).write_text(rewritten(Path(name).read_text(encoding="utf-8"), made), encoding="utf-8")
        else:
            print(*made, sep="\n")
