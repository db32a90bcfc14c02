"""What a release consists of: a wheel and a source archive that agree, extras that import, a citation, an image."""

from __future__ import annotations

import configparser
import importlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import cellfm_torch

ROOT = Path(__file__).resolve().parents[1]


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def requirements(text: str) -> list[Requirement]:
    return [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]


def version_of(name: str) -> str | None:
    try:
        return distribution(name).version
    except PackageNotFoundError:
        return None


def build(kind: str, source: Path, out: Path) -> Path:
    command = [sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""})
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.iterdir()
    return built


@pytest.mark.slow
def test_a_wheel_of_the_source_archive_holds_what_a_wheel_of_the_checkout_holds(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    kept = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "*.part", "build", "dist", "runs", "tests")
    shutil.copytree(ROOT, tree, ignore=kept)
    archive = build("sdist", tree, tmp_path / "sdist")
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    wheels = [build("wheel", source, tmp_path / name) for source, name in ((tree, "one"), (unpacked, "two"))]
    one, two = (sorted(zipfile.ZipFile(wheel).namelist()) for wheel in wheels)
    assert one == two and f"cellfm_torch-{cellfm_torch.__version__}.dist-info/METADATA" in one


@pytest.mark.parametrize("extra", setup_cfg()["options.extras_require"])
def test_extras_import(extra: str) -> None:
    """Each package of an extra, where it is installed, imports beside ours; `dev` is all there where tests run."""
    modules: dict[str, list[str]] = {}
    for module, names in packages_distributions().items():
        for name in names:
            modules.setdefault(re.sub(r"[-_.]+", "-", name).lower(), []).append(module)
    wanted = requirements(setup_cfg()["options.extras_require"][extra])
    wanted = [one for one in wanted if one.marker is None or one.marker.evaluate()]
    missing = [one.name for one in wanted if version_of(one.name) is None]
    if missing:
        assert extra != "dev", f"not installed: {missing}"
        pytest.skip(f"not installed here: {', '.join(missing)}")
    for one in wanted:
        found = version_of(one.name)
        assert found is not None and one.specifier.contains(found, prereleases=True), f"{one} is installed as {found}"
        names = [name for name in modules.get(re.sub(r"[-_.]+", "-", one.name).lower(), []) if name[0] != "_"]
        for name in sorted(names)[:1]:
            importlib.import_module(name)


def test_each_dependency_has_a_lower_bound() -> None:
    """`make bounds` would take the first release ever made of one that has none."""
    parts = [setup_cfg()["options"]["install_requires"], *setup_cfg()["options.extras_require"].values()]
    bounded = {one.name for text in parts for one in requirements(text) if ">=" in str(one.specifier)}
    assert {one.name for text in parts for one in requirements(text)} == bounded


def test_citation_is_of_this_version_and_of_the_papers_that_the_readme_names() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == cellfm_torch.__version__ and citation["license"] == "Apache-2.0"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    papers = [citation["preferred-citation"]["doi"], *(paper["doi"] for paper in citation["references"])]
    assert len(papers) == 2 and all(paper in readme for paper in papers)


def test_the_image_has_the_torch_that_make_installs() -> None:
    image, makefile = ((ROOT / name).read_text(encoding="utf-8") for name in ("Dockerfile", "Makefile"))
    wanted = re.search(r"^TORCH \?= (\S+)$", makefile, re.MULTILINE)
    assert wanted is not None and f"ARG TORCH={wanted[1]}\n" in image
    torch = next(one for one in requirements(setup_cfg()["options"]["install_requires"]) if one.name == "torch")
    assert torch.specifier.contains(wanted[1].removeprefix("torch=="))
