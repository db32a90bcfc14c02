"""Shells complete verbs and options by the script; where neither is meant, file names."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cellfm_torch import cli
from cellfm_torch.commands.completion import bash, fish, zsh

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="runs bash")

ASKED = [
    ("cellfm emb", "embed"),
    ("cellfm genes em", "embed"),
    ("cellfm genes relations --set", "--sets"),
    ("cellfm embed --ove", "--overwrite"),
    ("cellfm embed cells.h5ad --model m --dev", "--devices"),
    ("cellfm convert --par", "--part"),
    ("cellfm store ver", "verify"),
    ("cellfm doctor --js", "--json"),
    ("cellfm completion f", "fish"),
    ("cellfm help command", "command-line"),
    ("cellfm embed c", ""),  # a file name, by the shell's own means
]


def test_bash() -> None:
    script = [bash(), "shopt -u progcomp 2>/dev/null"]
    for line, _ in ASKED:
        script.append(
            f'COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _cellfm; echo "${{COMPREPLY[*]}}"'
        )
    script.append("complete -p cellfm")
    done = subprocess.run(["bash", "-c", "\n".join(script)], capture_output=True, text=True)
    *answers, registered = done.stdout.splitlines()
    assert done.stderr == "" and answers == [answer for _, answer in ASKED]
    assert registered == "complete -o default -F _cellfm cellfm"  # -o default: file names where nothing else fits


@pytest.mark.skipif(shutil.which("fish") is None, reason="runs fish")
def test_fish(tmp_path: Path) -> None:
    (tmp_path / "c.fish").write_text(fish())
    script = [
        f"source {tmp_path / 'c.fish'}",
        *(f"echo (complete -C '{line}' | string split -f1 \\t)" for line, _ in ASKED[:-1]),
    ]
    done = subprocess.run(["fish", "-N", "-c", "\n".join(script)], capture_output=True, text=True, cwd=tmp_path)
    assert done.stderr == "" and done.stdout.splitlines() == [answer for _, answer in ASKED[:-1]]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="runs zsh")
def test_zsh(tmp_path: Path) -> None:
    # Completion runs within the line editor only; here its parts stand in for it and print what they were given.
    script = [
        "compdef() { :; }",
        "compadd() { shift; print -r -- ${(M)@:#${words[CURRENT]}*}; }",
        "_files() { print; }",
    ]
    script.append(zsh())
    script += [f"words=({line}); CURRENT=${{#words}}; _cellfm" for line, _ in ASKED]
    done = subprocess.run(["zsh", "-f", "-c", "\n".join(script)], capture_output=True, text=True, cwd=tmp_path)
    assert done.stderr == "" and done.stdout.splitlines() == [answer for _, answer in ASKED]


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", "bash"]) == 0
    assert capsys.readouterr().out == bash()
    with pytest.raises(SystemExit) as exit:
        cli.main(["completion", "tcsh"])
    assert exit.value.code == 2


def test_printing_it_imports_nothing_heavy() -> None:  # it runs at the start of every shell
    code = (
        "import sys; from cellfm_torch import cli; cli.main(['completion', 'bash']); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
