"""The comparison itself, on a small recording: it passes where it should, and names the layer where it should not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import FOLDER, network_of
from comparison import compare, read_recording
from tolerances import TOLERANCES, tolerance_between

from cellfm_torch import CellFM
from cellfm_torch.errors import UserError

ROOT = FOLDER.parents[1]
RECORDED = FOLDER / "pretrain_layers.npz"  # 2 cells of 24 and 6 genes, by record_mindspore.py from pretrain.ckpt


@pytest.fixture
def network() -> CellFM:
    return network_of(FOLDER / "pretrain.ckpt", num_heads=4)


def test_every_layer_is_compared(network: CellFM) -> None:
    about, arrays = read_recording(RECORDED)
    report = compare(about, arrays, network)
    names = [stage.name for stage in report.stages]
    assert names == ["tokens", "layer 0", "layer 1", "layer 2", "layer 3", "by gene", "by cell"]
    assert report.first_beyond is None, report.render()
    assert all(0 < stage.relative < 1e-5 for stage in report.stages)  # 0 would mean that it compares with itself


@pytest.mark.parametrize(
    ("parameter", "expected"),
    [
        ("encoder.2.glu.v_proj.weight", "layer 2"),
        ("encoder.0.retention.o_proj.weight", "layer 0"),
        ("value_enc.w3.weight", "tokens"),
        ("gene_decoder.w2.weight", "by gene"),
        ("cell_decoder.map.weight", "by cell"),
    ],
)
def test_wrong_weight_is_found_where_it_is(network: CellFM, parameter: str, expected: str) -> None:
    about, arrays = read_recording(RECORDED)
    with torch.no_grad():
        network.get_parameter(parameter).mul_(1.01)
        network.get_parameter(parameter).view(-1)[0] += 0.1
    report = compare(about, arrays, network)
    assert report.first_beyond is not None
    assert report.first_beyond.name == expected
    row = next(line for line in report.render().splitlines() if "first beyond" in line)
    assert expected in row


def test_not_a_number_is_beyond(network: CellFM) -> None:
    about, arrays = read_recording(RECORDED)
    arrays["layer.1"] = arrays["layer.1"].copy()
    arrays["layer.1"][0, 0, 0] = np.nan
    report = compare(about, arrays, network)
    assert report.first_beyond is not None and report.first_beyond.name == "layer 1"
    assert any("itself is not finite" in note for note in report.notes)


def test_half_precision_is_within_its_own_tolerance(network: CellFM) -> None:
    about, arrays = read_recording(RECORDED)
    report = compare(about, arrays, network, dtype=torch.float16)
    assert report.first_beyond is None, report.render()
    assert max(stage.relative for stage in report.stages) > TOLERANCES["CPU", "float32"].outputs


def test_other_sizes_are_refused(network: CellFM) -> None:
    about, arrays = read_recording(RECORDED)
    with pytest.raises(UserError, match="num_layers 5, the model 4"):
        compare({**about, "num_layers": 5}, arrays, network)
    with pytest.raises(UserError, match=r"not a recording"):
        read_recording(FOLDER / "pretrain.npz")


def test_the_looser_side_decides() -> None:
    assert (
        tolerance_between(("Ascend", "float32"), ("CPU", "float32"), activations=1) == TOLERANCES["Ascend", "float32"]
    )
    assert all(tolerance.reason for tolerance in TOLERANCES.values())
    large = tolerance_between(("CPU", "float32"), ("CPU", "float32"), activations=10**6)
    assert large.gradients > TOLERANCES["CPU", "float32"].gradients and "ReLU" in large.reason


def pytest_run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the comparison as a user does, from the root of the checkout."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_as_a_user_runs_it(network: CellFM, tmp_path: Path) -> None:
    network.save_pretrained(tmp_path / "right")
    with torch.no_grad():
        network.encoder[2].glu.v_proj.weight.mul_(1.01)
    network.save_pretrained(tmp_path / "wrong")
    comparison = "tests/parity/test_against_recording.py"
    done = pytest_run(comparison, "--recorded", RECORDED, "--model", tmp_path / "right")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "layer 3" in done.stdout and "1 passed" in done.stdout
    done = pytest_run(comparison, "--recorded", RECORDED, "--model", tmp_path / "wrong")
    assert done.returncode == 1
    assert "first beyond tolerance: layer 2" in done.stdout
    done = pytest_run(comparison)
    assert "1 passed" not in done.stdout and "skipped" not in done.stdout
    done = pytest_run("--recorded", RECORDED)
    assert done.returncode == 4 and "--recorded needs --model" in done.stderr


def test_recorder_says_what_is_missing(tmp_path: Path) -> None:
    recorder, checkpoint = FOLDER / "record_mindspore.py", FOLDER / "pretrain.ckpt"
    output = tmp_path / "recorded.npz"
    cases = {
        "no such folder": [tmp_path / "absent", checkpoint, output],
        "no such file": [tmp_path, tmp_path / "absent.ckpt", output],
        "must end in .npz": [tmp_path, checkpoint, tmp_path / "recorded.txt"],
        "MindSpore": [tmp_path, checkpoint, output],  # not installed, or else no checkout there
    }
    for message, (official, ckpt, file) in cases.items():
        command = [sys.executable, recorder, "--official", official, "--ckpt", ckpt, "--output", file]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
        assert message in done.stderr or message == "MindSpore" and "is it a CellFM checkout" in done.stderr
    assert not list(tmp_path.iterdir())
