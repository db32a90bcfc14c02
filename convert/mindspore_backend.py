"""Open what only MindSpore can open, such as encrypted files: in a process of an interpreter that has it.

MindSpore needs numpy < 2 and its own environment, so the interpreter is named by CELLFM_MINDSPORE_PYTHON where it is
not this one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from cellfm_torch.errors import UserError

from .options import PYTHON

# The key comes by standard input: arguments and environment can be read by other processes.
PROGRAM = """
import sys
try:
    import mindspore
except ImportError:
    sys.exit(3)
key = sys.stdin.buffer.read()
options = dict(dec_key=key, dec_mode=sys.argv[3]) if key else {}
loaded = mindspore.load_checkpoint(sys.argv[1], **options)
mindspore.save_checkpoint([{"name": name, "data": x} for name, x in loaded.items()], sys.argv[2])
"""


@contextmanager
def through_mindspore(checkpoint: Path, *, key: Path | None, mode: str) -> Iterator[Path]:
    """Let MindSpore read a checkpoint and write a plain one, which is gone when the block ends.

    Parameters
    ----------
    checkpoint
        What it shall read.
    key
        File whose bytes are the key; None for a file that is not encrypted.
    mode
        One of `MODES`.

    Raises
    ------
    UserError
        If there is no MindSpore, or it cannot read the file.
    """
    python = os.environ.get(PYTHON, sys.executable)
    if not checkpoint.is_file():
        raise UserError(f"{checkpoint}: cannot be read as a MindSpore checkpoint (no such file)")
    try:
        secret = key.read_bytes() if key else b""
    except OSError as problem:
        raise UserError(f"--key {key}: cannot be read ({problem.strerror})") from problem
    # Readable by this user only, and removed at once: it holds what somebody encrypted.
    with TemporaryDirectory(prefix="cellfm-") as folder:
        plain = Path(folder) / "plain.ckpt"
        command = [python, "-c", PROGRAM, str(checkpoint), str(plain), mode]
        try:
            done = subprocess.run(command, input=secret, capture_output=True, check=False)
        except OSError as problem:
            raise UserError(f"{PYTHON}={python} cannot be run ({problem.strerror})") from problem
        if done.returncode == 3:
            raise UserError(f"{python} has no MindSpore; name an interpreter that has it: {PYTHON}=/path/to/python")
        if done.returncode or not plain.is_file():
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            said = next((line for line in lines[::-1] if "Error" in line), "no reason given")
            raise UserError(f"{checkpoint}: MindSpore cannot read it either, is --key right? ({said[:200].strip()})")
        yield plain
