"""How every command of this project reads its arguments, and says what is wrong with them."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from cellfm_torch.answers import answer
from cellfm_torch.errors import nearest
from cellfm_torch.pages import page_of

USER_ERROR = 2  # exit code of everything the user can put right
INTERRUPTED = 130  # exit code after Ctrl-C, as shells have it


def complain(problem: BaseException | str, *, page: str | None = None) -> int:
    """Print one line about something the user can put right, and the page that helps; returns the exit code.

    Parameters
    ----------
    problem
        What was caught, or the message.
    page
        One of :data:`.pages.PAGES`; by default the one for the module that noticed it.
    """
    message = " ".join(str(problem).split())
    if page is None:
        page = "command-line" if isinstance(problem, str) else page_of(problem)
    print(f"error: {message} [cellfm help {page}]", file=sys.stderr)
    answer(error=message, page=page)
    return USER_ERROR


def interrupted(left: str = "give the same command again", *, by: str = "interrupted", code: int = INTERRUPTED) -> int:
    """Print one line about a command that was stopped, and what is left of its work; returns the exit code.

    Parameters
    ----------
    left
        What there is, or what to do.
    by, code
        What stopped it, and the exit code that shells have for that.
    """
    print(f"{by}: {left}", file=sys.stderr)
    answer(error=f"{by}: {left}")
    return code


class OneLineParser(argparse.ArgumentParser):
    """argparse with this project's way of saying what is wrong: one line, the nearest word, exit code 2."""

    def error(self, message: str) -> NoReturn:
        """Print one line and exit."""
        hint = ""
        if message.startswith("unrecognized arguments: "):
            word = message.split(": ", 1)[1].split()[0]
            flags = [flag for action in self._actions for flag in action.option_strings]
            message, hint = f"there is no option {word}", nearest(word, flags)
        sys.exit(complain(f"{message}{hint} See {self.prog} --help"))
