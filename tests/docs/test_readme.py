"""The README fits on a screen, what it links to is there, and it says what the documentation's first page says."""

from __future__ import annotations

import re
from pathlib import Path

from cellfm_torch import cli
from cellfm_torch.verbs import VERBS, flat

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_one_screen_of_short_lines() -> None:
    assert README.count("\n") <= 85  # with its picture what a tall window shows after one turn of the wheel


def test_every_link_and_picture_is_there() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", README) if not link.startswith("http")]
    assert len(links) > 15 and [link for link in links if not (ROOT / link).exists()] == []


def test_commands_are_verbs() -> None:
    typed = re.findall(r"^    cellfm ([a-z]+)", README, re.MULTILINE)
    assert typed and set(typed) <= set(flat(VERBS))
    assert "cellfm_torch" in cli.__name__ and "python -m cellfm_torch.train +experiment=pretrain" in README


def test_the_table_of_peers_is_that_of_the_documentation() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")

    def rows(text: str) -> list[str]:
        table = text[text.index("| framework |") :].split("\n\n", 1)[0]
        return [re.sub(r"\]\(.*?/(\w+\.md)\)", r"](\1)", row) for row in table.splitlines()]

    assert len(rows(README)) == 7 and rows(README) == rows(index)
