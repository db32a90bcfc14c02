"""How every command of this project reads its arguments."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from cellfm_torch.errors import nearest


class OneLineParser(argparse.ArgumentParser):
    """argparse with this project's way of saying what is wrong: one line, the nearest word, exit code 2."""

    def error(self, message: str) -> NoReturn:
        """Print one line and exit."""
        hint = ""
        if message.startswith("unrecognized arguments: "):
            word = message.split(": ", 1)[1].split()[0]
            flags = [flag for action in self._actions for flag in action.option_strings]
            message, hint = f"there is no option {word}", nearest(word, flags)
        print(f"error: {message}{hint} See {self.prog} --help", file=sys.stderr)
        sys.exit(2)
