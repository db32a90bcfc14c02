"""The doctor sees planted problems, says what to do, and its exit code tells of them."""

from __future__ import annotations

import json
import shutil
from importlib import metadata
from pathlib import Path

import pytest
import torch

from cellfm_torch import CellFM, CellFMConfig, cli
from cellfm_torch.commands import doctor_checks
from cellfm_torch.commands.doctor_checks import Finding


@pytest.fixture
def model(tmp_path: Path) -> Path:
    config = CellFMConfig(num_layers=1, dim=32, num_heads=1, num_genes=3)
    CellFM(config, genes=["A", "B", "C"]).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def only(findings: object) -> Finding:
    (finding,) = findings  # type: ignore[misc]
    return finding


def test_sound_model(model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_checks, "NO_MEMORY", 0)  # whatever else runs on this machine
    assert cli.main(["doctor", "--model", str(model), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["command"] == "doctor" and said["exit_code"] == said["problems"] == 0 and "error" not in said
    subjects = {check["subject"] for check in said["checks"]}
    assert subjects == {
        "python",
        "packages",
        "extras",
        "torch",
        "gpu",
        "cpu",
        "memory",
        "disk",
        "hdf5",
        "genes",
        "model",
    }
    assert "CellFM" in said["checks"][-1]["said"] and "3 genes" in said["checks"][-1]["said"]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: shutil.rmtree(folder), "is not a model folder: it has no config.json"),
        (lambda folder: (folder / "genes.txt").unlink(), "it has no genes.txt"),
        (lambda folder: (folder / "genes.txt").write_text("A\nB\n"), "genes.txt"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json"),
        (lambda folder: _cut(folder / "model.safetensors"), "cannot be read"),
        (lambda folder: _deeper(folder / "config.json"), "lacks the tensor"),
    ],
)
def test_damaged_model(model: Path, damage: object, says: str) -> None:
    damage(model)  # type: ignore[operator]
    finding = only(doctor_checks.model_folder(str(model)))
    assert finding.state == "problem" and says in finding.said


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-4])


def _deeper(file: Path) -> None:
    file.write_text(file.read_text().replace('"num_layers": 1', '"num_layers": 2'))


def test_a_problem_is_an_exit_code_and_the_other_checks_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELLFM_GENES", str(tmp_path / "none.tsv.gz"))
    checks = {"cpu": lambda: iter([1 / 0]), "genes": doctor_checks.genes, "hdf5": doctor_checks.hdf5}
    monkeypatch.setattr("cellfm_torch.commands.doctor.CHECKS", checks)
    assert cli.main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("problem  cpu") and "ZeroDivisionError" in lines[0]
    assert "no such gene table" in lines[1] and "unset CELLFM_GENES" in lines[1]
    assert "hdf5" in lines[2] and lines[-1] == "2 problems"
    assert "\033[" not in "".join(lines), "colour in what is no terminal"


def test_versions_out_of_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version
    versions = {"torch": "2.20.0", "lightning": None}

    def version(name: str) -> str:
        found = versions[name] if name in versions else real(name)
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(doctor_checks.platform, "python_version", lambda: "3.10.2")
    problems = {finding.said: finding.advice for finding in doctor_checks.python() if finding.state == "problem"}
    assert "make an environment with Python >=3.11" in problems["3.10.2 is not >=3.11"]
    assert problems["lightning is not installed"].startswith("pip install 'lightning")
    assert any(said.startswith("torch 2.20.0 is not ") for said in problems) and len(problems) == 3


def test_gpu_that_torch_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: False)
    monkeypatch.setattr(doctor_checks, "has_driver", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", None)
    finding = list(doctor_checks.devices())[-1]
    assert finding.state == "note" and "built without CUDA" in finding.said

    def init() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).")

    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "init", init)
    finding = list(doctor_checks.devices())[-1]
    assert finding.state == "problem" and "too old" in finding.said and "update the driver" in finding.advice


def test_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor_checks, "NO_DISK", 1e18)
    monkeypatch.setattr(doctor_checks, "NO_MEMORY", 1e18)
    monkeypatch.setattr(doctor_checks.tempfile, "gettempdir", lambda: (_ for _ in ()).throw(FileNotFoundError()))
    disk = list(doctor_checks.disk())
    assert [finding.state for finding in disk] == ["problem"] * 3 and "TMPDIR" in disk[1].advice
    assert only(doctor_checks.memory()).state == "problem"
