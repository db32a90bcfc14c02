"""Every error line names the page that helps: planted mistakes lead to the right one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pytest

from cellfm_torch import CellFM, CellFMConfig, UserError, answers, cli, paths, train
from cellfm_torch.command_line import complain
from cellfm_torch.errors import naming
from cellfm_torch.pages import _PAGE_OF, PAGES, page_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with cells of a mouse, scaled cells, a damaged file, a model and half a model."""
    genes = (paths.VOCAB / "genes_24078.txt").read_text().split()[:40]
    rng = np.random.default_rng(0)
    cells = anndata.AnnData(rng.poisson(2.0, (60, 40)).astype(np.float32))
    cells.var_names = genes
    cells.write_h5ad(tmp_path / "cells.h5ad")
    scaled = cells.copy()
    scaled.X = scaled.X - 1.5
    scaled.write_h5ad(tmp_path / "scaled.h5ad")
    mouse = cells.copy()
    mouse.var_names = [f"Nobody{i}" for i in range(40)]
    mouse.write_h5ad(tmp_path / "strange.h5ad")
    (tmp_path / "cut.h5ad").write_bytes((tmp_path / "cells.h5ad").read_bytes()[:3000])
    config = CellFMConfig(num_layers=1, dim=32, num_heads=1, num_genes=40)
    CellFM(config, genes=genes).save_pretrained(tmp_path / "model")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.json").write_text((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    return tmp_path


MISTAKES = [
    ("embed cells.h5ad --modle model", "command-line"),
    ("embed cells.h5ad --model model token_budgte=3", "command-line"),
    ("genes embd cells.h5ad", "command-line"),
    ("embed cells.h5ad --model half", "models"),
    ("convert scaled.h5ad", "models"),
    ("export nowhere --output x", "models"),
    ("embed scaled.h5ad --model model", "cells"),
    ("integrate cells.h5ad --batch donor --model model", "cells"),
    ("embed strange.h5ad --model model", "genes"),
    ("genes build nowhere.txt", "genes"),
    ("embed cut.h5ad --model model", "files"),
    ("embed nowhere.h5ad --model model", "files"),
    ("store info cells.h5ad", "files"),
    ("embed cells.h5ad --model model --output cells.txt", "files"),
    ("integrate cells.h5ad --batch donor --model model --output cells.h5ad", "files"),
    ("genes function --labels none.csv --model model --results full", "files"),
    ("train --data cells.h5ad --run-dir full", "training"),
    ("embed cells.h5ad --model model accelerator=cuda", "install"),
    ("genes relations cells.h5ad --model model --genes Nobody1,Nobody2", "genes"),
    ("perturb train cells.h5ad --model model --split nonsense", "tasks"),
]


@pytest.mark.parametrize(("line", "page"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_mistake_leads_to_its_page(line: str, page: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = cli.main(line.split())
    except SystemExit as exit:
        code = exit.code
    said = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    assert code == 2 and len(said) == 1
    assert said[0].endswith(f" [cellfm help {page}]"), said


def test_pages_of_modules() -> None:
    assert set(_PAGE_OF.values()) <= PAGES.keys()
    for module in _PAGE_OF:
        file = paths.PACKAGE / module.replace(".", "/")
        there = file.is_dir() or file.with_suffix(".py").is_file() or any(file.parent.glob(f"{file.name}*.py"))
        assert there or module == "convert", module


def test_the_reason_names_the_page_and_an_error_may_name_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    from cellfm_torch.data.gene_table import GeneTable

    with pytest.raises(UserError) as caught, naming("somewhere"):
        GeneTable.load("nowhere.tsv.gz")
    assert page_of(caught.value) == "genes"
    assert complain(UserError("a\nb", page="install")) == 2
    assert capsys.readouterr().err == "error: a b [cellfm help install]\n"
    assert (
        page_of(UserError("take pip install x")) == "install"
        and page_of(UserError("of another process")) == "command-line"
    )


def test_help_prints_pages_and_verbs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "TROUBLESHOOTING", tmp_path)
    (tmp_path / "files.md").write_text("# Files\n\nDisks.\n")
    assert cli.main(["help", "files"]) == 0
    assert capsys.readouterr().out == "# Files\n\nDisks.\n"
    assert cli.main(["help", "cells"]) == 1  # a page that is not installed
    assert "docs/troubleshooting/cells.md" in capsys.readouterr().err
    assert cli.main(["help"]) == 0
    said = capsys.readouterr().out
    assert all(f"\n  {page} " in said for page in PAGES)
    assert cli.main(["help", "flies"]) == 2
    assert "did you mean 'files'?" in capsys.readouterr().err
    with pytest.raises(SystemExit) as exit:
        cli.main(["help", "genes", "embed"])
    assert exit.value.code == 0 and "--parquet" in capsys.readouterr().out


def test_json_is_one_line_and_the_rest_goes_to_stderr(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def job(overrides: list[str]) -> int:
        print("said to people")
        os.system("echo said by another process")
        answers.answer(output=Path("x.h5ad"), score=np.float32(0.5), missing=float("nan"), many=np.arange(2))
        return 0

    monkeypatch.setattr(train, "main", job)
    assert cli.main(["train", "--json", "--steps", "3"]) == 0
    said = capfd.readouterr()
    found = json.loads(said.out)
    assert said.out.count("\n") == 1 and found.pop("seconds") >= 0
    assert found == {
        "command": "train", "exit_code": 0, "output": "x.h5ad", "score": 0.5, "missing": None, "many": [0, 1],
    }  # fmt: skip
    assert "said to people" in said.err and "said by another process" in said.err


@pytest.mark.parametrize(
    ("raised", "code", "error"),
    [
        (RuntimeError("broke"), 1, "RuntimeError: broke"),
        (KeyboardInterrupt(), 130, "interrupted: give the same command again"),
        (SystemExit(2), 2, None),
    ],
)
def test_json_of_a_command_that_fails(
    raised: BaseException, code: int, error: str | None, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def job(overrides: list[str]) -> int:
        raise raised

    monkeypatch.setattr(train, "main", job)
    assert cli.main(["train", "--json"]) == code
    said = json.loads(capsys.readouterr().out)
    assert said["exit_code"] == code and said.get("error") == error
    assert cli.main(["train", "--stepps", "3", "--json"]) == 2
    said = json.loads(capsys.readouterr().out)
    assert said["error"].startswith("there is no option --stepps") and said["page"] == "command-line"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_exit_codes_of_signals(number: int, code: int) -> None:
    # Shells show 143 for a process that SIGTERM ended; training handles it itself, see test_train.py.
    script = (
        "import signal, sys, time; from cellfm_torch import cli; from cellfm_torch.commands import completion\n"
        # Of a job in the background a shell has it ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "completion.main = lambda _: print('on', flush=True) or time.sleep(60)\n"
        "sys.exit(cli.main(['completion', 'bash']))"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None and process.stdout.readline() == "on\n"
    process.send_signal(number)
    assert process.wait(60) == code
