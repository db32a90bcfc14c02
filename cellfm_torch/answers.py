"""``--json``: what a command has found and written, as one JSON object for machines."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any

_values: dict[str, Any] = {}


def answer(**values: Any) -> None:
    """Keep what a command has written or found for ``--json``: paths, numbers, tables (a list of rows).

    Without ``--json`` nothing comes of it. Of one name the last value stands.
    """
    _values.update(values)


def answered(command: str, run: Callable[[], int]) -> int:
    """Run a command and end with one line of JSON on stdout; what it prints there otherwise goes to stderr.

    Parameters
    ----------
    command
        As typed, ``genes embed``.
    run
        Returns the exit code; an exception that it lets through is shown as usual, and in the object.
    """
    import json
    import time
    import traceback

    _values.clear()
    code, start = 1, time.perf_counter()
    with _stdout_on_stderr():
        try:
            code = run()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except Exception as problem:
            traceback.print_exc()
            answer(error=f"{type(problem).__name__}: {problem}")
    about = {"command": command, "exit_code": code, "seconds": round(time.perf_counter() - start, 3)}
    if _first_process():
        print(json.dumps(_plain({**about, **_values}), allow_nan=False), flush=True)
    return code


def _first_process() -> bool:
    """Whether this process speaks for the job; only what has loaded Lightning can be one of several."""
    if "lightning.pytorch" not in sys.modules:
        return True
    from cellfm_torch.processes import rank

    return rank() == 0


@contextmanager
def _stdout_on_stderr() -> Iterator[None]:
    """Send what this process, its libraries and the processes it starts write to stdout to stderr."""
    try:
        sys.stdout.flush()
        kept = os.dup(1)
        os.dup2(2, 1)
    except OSError:  # closed by whoever started us
        kept = None
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if kept is not None:
            os.dup2(kept, 1)
            os.close(kept)


def _plain(value: Any) -> Any:
    """Return a value as JSON has it; what is not a number becomes null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if hasattr(value, "to_dict"):  # a table of pandas
        return _plain(value.to_dict("records"))
    return _plain(value.tolist()) if hasattr(value, "tolist") else str(value)
