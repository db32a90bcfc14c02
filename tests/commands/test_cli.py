"""The console script's grammar: options are aliases of configuration keys."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from cellfm_torch import cli, paths, train
from cellfm_torch.verb import Group
from cellfm_torch.verbs import VERBS, verb_of

ROOT = Path(__file__).parents[2]


@pytest.fixture
def overrides(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """What the verb's module was asked to run."""
    asked: list[Sequence[str]] = []
    monkeypatch.setattr(train, "main", lambda given: asked.append(given) or 0)
    return asked


def test_options_become_overrides(overrides: list[Sequence[str]]) -> None:
    typed = ["train", "optim.eps=1e-7", "--data", "a b/*.h5ad", "--resume", "data.mask_fraction=0.3", "--lr", "1e-4"]
    assert cli.main(typed) == 0
    assert overrides == [
        [
            "+experiment=pretrain",
            "data.path='a b/*.h5ad'",
            "optim.lr=1e-4",
            "resume=true",
            "optim.eps=1e-7",
            "data.mask_fraction=0.3",
        ]
    ]


def test_experiment_has_a_default(overrides: list[Sequence[str]]) -> None:
    cli.main(["train", "--experiment", "pretrain_80m"])
    assert overrides == [["+experiment=pretrain_80m"]]


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (["trian"], "there is no verb 'trian'; did you mean 'train'?"),
        (["train", "--dat", "x"], "did you mean '--data'?"),
    ],
)
def test_typing_errors(typed: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = cli.main(typed)
    except SystemExit as exit:
        code = exit.code
    assert code == 2
    message = capsys.readouterr().err.strip()
    assert says in message and "\n" not in message


def test_help_names_every_option_and_its_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    assert "train" in capsys.readouterr().out
    with pytest.raises(SystemExit) as exit:
        cli.main(["train", "--help"])
    assert exit.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    verb = verb_of("train")
    assert verb is not None and verb.options is not None
    for option in verb.options:
        assert option.flag in text and option.template.format(option.key.upper()) in text


def test_groups_of_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["genes"]) == 0
    text = capsys.readouterr().out
    group = VERBS["genes"]
    assert isinstance(group, Group) and all(f"\n  {name} " in text for name in group.verbs)
    assert "usage: cellfm genes VERB" in text
    assert verb_of("genes_build") is group.verbs["build"]
    assert verb_of("genes_bulid") is None and verb_of("train_build") is None


def test_every_verb_with_options_has_a_configuration() -> None:
    for name, verb in VERBS.items():
        verbs = {f"{name}_{x}": y for x, y in verb.verbs.items()} if isinstance(verb, Group) else {name: verb}
        for full, one in verbs.items():
            assert (paths.CONF / f"{full}.yaml").is_file() == (one.options is not None), full


def test_a_reader_that_has_enough(tmp_path: Path) -> None:
    """``cellfm help cells | head -1``: no traceback, and the exit code that shells have for it."""
    typed = [sys.executable, "-m", "cellfm_torch.cli", "help", "cells"]
    with subprocess.Popen(typed, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait(60) == 128 + signal.SIGPIPE
