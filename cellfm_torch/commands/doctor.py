"""What this machine has, what is wrong and what to do: ``cellfm doctor [--model FOLDER]``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence

from cellfm_torch.answers import answer
from cellfm_torch.command_line import OneLineParser
from cellfm_torch.commands.doctor_checks import CHECKS, Finding, model_folder

COLOURS = {"ok": "32", "note": "33", "problem": "31"}


def parsers() -> list[argparse.ArgumentParser]:
    """Return the options."""
    parser = OneLineParser(
        prog="cellfm doctor",
        description="What this machine has, what is wrong, and what to do. Exit code 1: a problem stops work.",
        epilog="example: cellfm doctor --model models/80m",
        allow_abbrev=False,
    )
    parser.add_argument("--model", metavar="FOLDER", help="a model folder to look at too")
    return [parser]


def examined(checks: Iterable[tuple[str, Callable[[], Iterable[Finding]]]]) -> Iterable[Finding]:
    """Yield what the checks find; a check that cannot be made is a problem of its own."""
    for subject, check in checks:
        try:
            yield from check()
        except ImportError as problem:
            missing = problem.name or subject
            yield Finding("problem", subject, f"{missing} cannot be imported ({problem})", "install this package again")
        except Exception as problem:  # what a broken library raises, and the other checks are still of use
            yield Finding("problem", subject, f"could not be looked at: {type(problem).__name__}: {problem}", "")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 1 where there is a problem."""
    options = parsers()[0].parse_args(sys.argv[1:] if arguments is None else list(arguments))
    checks = list(CHECKS.items())
    if options.model is not None:
        checks.append(("model", lambda: model_folder(options.model)))
    coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    found = []
    for finding in examined(checks):
        found.append(finding)
        word = f"{finding.state:7}"
        word = f"\033[{COLOURS[finding.state]}m{word}\033[0m" if coloured else word
        said = ": ".join(" ".join(part.split()) for part in (finding.said, finding.advice) if part)
        print(f"{word}  {finding.subject:8}  {said}", flush=True)
    problems = sum(finding.state == "problem" for finding in found)
    print(f"{problems} problems" if problems != 1 else "1 problem", flush=True)
    answer(checks=[finding._asdict() for finding in found], problems=problems)
    if problems:
        answer(error=next(finding.said for finding in found if finding.state == "problem"), page="install")
    return int(problems > 0)


if __name__ == "__main__":
    sys.exit(main())
