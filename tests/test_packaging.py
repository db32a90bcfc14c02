"""What is on disk is what a wheel holds, and the wheel finds it."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import cellfm_torch

ROOT = Path(__file__).resolve().parents[1]
MAPPED = {"conf": "conf", "convert": "convert", "docs/troubleshooting": "troubleshooting"}
"""Folders outside the package that travel inside it, and what they are called there."""


def files_on_disk() -> set[str]:
    """Names in a wheel of all files of the package and of the mapped folders."""
    names = set()
    for folder in ("cellfm_torch", *MAPPED):
        for file in (ROOT / folder).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts and file.suffix != ".part":
                name = file.relative_to(ROOT / folder).as_posix()
                names.add(
                    f"cellfm_torch/{name}" if folder == "cellfm_torch" else f"cellfm_torch/{MAPPED[folder]}/{name}"
                )
    return names


@pytest.fixture(scope="module")
def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from a copy so that setuptools leaves nothing behind in the checkout."""
    work = tmp_path_factory.mktemp("wheel")
    for folder in ("cellfm_torch", *MAPPED):
        shutil.copytree(ROOT / folder, work / "tree" / folder, ignore=shutil.ignore_patterns("__pycache__", "*.part"))
    for file in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / file, work / "tree" / file)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(work),
        ".",
    ]
    done = subprocess.run(command, cwd=work / "tree", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = work.glob("*.whl")
    return built


def test_packages_are_those_on_disk(setup_cfg: configparser.ConfigParser) -> None:
    listed = setup_cfg["options"]["packages"].split()
    packages = {f"cellfm_torch.{name}" for name in MAPPED.values()}
    packages |= {".".join(file.relative_to(ROOT).parent.parts) for file in (ROOT / "cellfm_torch").rglob("__init__.py")}
    assert sorted(listed) == sorted(packages)


def test_wheel_holds_every_file(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        notices = {Path(name).name for name in archive.namelist() if "/licenses/" in name}
    assert packed == files_on_disk()
    assert notices == {"LICENSE", "NOTICE"}
    # A wrong path above would compare two empty lists.
    assert {"cellfm_torch/py.typed", "cellfm_torch/conf/train.yaml", "cellfm_torch/convert/ms2pt.py"} <= packed
    assert any(name.startswith("cellfm_torch/troubleshooting/") for name in packed)


def test_wheel_finds_its_files(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        "import cellfm_torch.convert.network as n, cellfm_torch.paths as p\n"
        "assert p.CONF == p.PACKAGE / 'conf' and (p.CONF / 'train.yaml').is_file(), p.CONF\n"
        "assert p.PBMC3K.is_file() and list(p.VOCAB.glob('*.txt'))\n"
        "print(n.__file__)"
    )
    # PYTHONPATH comes before the finder of an editable install.
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == tmp_path / "site" / "cellfm_torch" / "convert" / "network.py"


def test_script_runs_uninstalled(tmp_path: Path) -> None:
    script = ROOT / "convert" / "ms2pt.py"
    # From another folder, and with PYTHONSAFEPATH unset, Python puts convert/ on the path and not the root.
    done = subprocess.run([sys.executable, str(script), "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "checkpoint" in done.stdout


def test_version_is_the_same_everywhere(wheel: Path, setup_cfg: configparser.ConfigParser) -> None:
    assert setup_cfg["metadata"]["version"] == "attr: cellfm_torch.__version__"
    assert wheel.name.split("-")[1] == cellfm_torch.__version__
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in changes or f"## [{cellfm_torch.__version__}]" in changes
