"""What ``cellfm --help`` and ``cellfm GROUP --help`` print: a table of contents."""

from __future__ import annotations

from cellfm_torch.verb import Group, Verb
from cellfm_torch.verbs import CHAPTERS, VERBS, flat

EXIT_CODES = {
    0: "done",
    1: "an error of our own, or cellfm doctor found a problem",
    2: "a mistake or damage that one line on stderr names",
    130: "interrupted by Ctrl-C; training has saved its state",
    143: "ended by SIGTERM; training has saved its state",
}


def _listed(verbs: dict[str, Verb], width: int) -> str:
    return "\n".join(f"  {name:{width}}  {verb.help}" for name, verb in verbs.items())


def contents() -> str:
    """Return the table of contents of all verbs."""
    width = max(map(len, flat(VERBS)))
    chapters = [f"{title}\n{_listed(flat(verbs), width)}" for title, verbs in CHAPTERS.items()]
    codes = "\n".join(f"  {code:<{width}}  {meaning}" for code, meaning in EXIT_CODES.items())
    return "\n\n".join(
        (
            "usage: cellfm VERB [options] [key=value ...]\n"
            "CellFM: a foundation model of human single-cell RNA. For instance:\n"
            f"  {VERBS['embed'].example}",  # type: ignore[union-attr]
            *chapters,
            f"more\n  {'VERB --help':{width}}  options, an example, where all keys are listed\n"
            f"  {'VERB ... --json':{width}}  one JSON object at the end, for machines\n"
            f"  {'--version':{width}}  version of this package",
            f"exit codes\n{codes}",
        )
    )


def group_contents(name: str, group: Group) -> str:
    """Return the table of contents of a group, with an example of each verb."""
    examples = "\n".join(f"  {verb.example}" for verb in group.verbs.values())
    return (
        f"usage: cellfm {name} VERB [options] [key=value ...]\n\n{group.help[0].upper()}{group.help[1:]}.\n\n"
        f"verbs\n{_listed(group.verbs, max(map(len, group.verbs)))}\n\nexamples\n{examples}\n\n"
        f"cellfm {name} VERB --help says more."
    )
