"""A page on what may go wrong, or the help of a verb: ``cellfm help PAGE``, ``cellfm help VERB``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from cellfm_torch import paths
from cellfm_torch.command_line import OneLineParser, complain
from cellfm_torch.errors import nearest
from cellfm_torch.pages import PAGES
from cellfm_torch.verbs import VERBS, flat


def parsers() -> list[argparse.ArgumentParser]:
    """Return the options."""
    parser = OneLineParser(
        prog="cellfm help",
        description="Print a page on what may go wrong, as error lines name it, or the help of a verb.",
        epilog="example: cellfm help files",
        allow_abbrev=False,
    )
    parser.add_argument("topic", nargs="*", metavar="PAGE|VERB", help=f"a verb, or a page: {', '.join(PAGES)}")
    return [parser]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    words = parsers()[0].parse_args(sys.argv[1:] if arguments is None else list(arguments)).topic
    topic = " ".join(words)
    if topic in VERBS or topic in flat(VERBS):
        from cellfm_torch import cli

        if topic in PAGES:
            _show(topic)
        return cli.main([*words, "--help"])
    if topic in PAGES:
        return _show(topic)
    if not topic:
        width = max(map(len, PAGES))
        listed = "\n".join(f"  {page:{width}}  {about}" for page, about in PAGES.items())
        print(f"usage: cellfm help PAGE, cellfm help VERB\n\npages on what may go wrong\n{listed}")
        print("\ncellfm --help lists the verbs; cellfm doctor looks at this machine.")
        return 0
    return complain(f"there is no page and no verb '{topic}'{nearest(topic, [*PAGES, *flat(VERBS)])} See cellfm help")


def _show(page: str) -> int:
    file = paths.TROUBLESHOOTING / f"{page}.md"
    if not file.is_file():
        where = f"docs/troubleshooting/{page}.md of the source, troubleshooting/{page} of the documentation"
        print(f"{page}: {PAGES[page]}. The page is not installed here: see {where}", file=sys.stderr)
        return 1
    print(file.read_text(encoding="utf-8").rstrip())
    return 0


if __name__ == "__main__":
    sys.exit(main())
