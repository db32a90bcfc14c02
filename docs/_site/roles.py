"""References of docstrings, written for Sphinx (``:class:`~a.b.C```), as Markdown: a link where the name is public."""

from __future__ import annotations

import re
from typing import Any

import griffe

import cellfm_torch

ROLE = re.compile(r":(?:mod|class|func|meth|attr|data):`(~?)([^`]+)`")
PUBLIC = set(cellfm_torch.__all__)


def markdown(text: str) -> str:
    """Replace the references of a docstring."""
    return ROLE.sub(_link, text)


def _link(found: re.Match[str]) -> str:
    dotted = found[2]
    last = dotted.rsplit(".", 1)[-1]
    shown = last if found[1] or last in PUBLIC else dotted
    return f"[`{shown}`][cellfm_torch.{last}]" if last in PUBLIC else f"`{shown}`"


class Roles(griffe.Extension):
    """Rewrites each docstring once it is read."""

    def on_object(self, *, obj: griffe.Object, **more: Any) -> None:  # noqa: D102
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)
