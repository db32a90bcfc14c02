"""scFoundation's models.ckpt to a model folder: every name, and one clear line for everything that can be wrong."""

from __future__ import annotations

import copy
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cellfm_torch import ScFoundation, ScFoundationConfig, UserError, cli, load_model
from cellfm_torch.convert.scf_conversion import Options, convert_part
from cellfm_torch.convert.scf_names import TABLE, source_name, target_name

ROOT = Path(__file__).resolve().parents[2]
RECORDED = ROOT / "tests" / "parity" / "scfoundation.ckpt"
PROJECTION = "model.decoder.performer.net.layers.1.0.fn.fast_attention.projection_matrix"


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    return torch.load(RECORDED, weights_only=True)


@pytest.fixture
def genes(tmp_path: Path) -> Path:
    (tmp_path / "genes.txt").write_text("".join(f"G{i}\n" for i in range(200)))
    return tmp_path / "genes.txt"


@pytest.fixture
def altered(content: dict[str, Any], tmp_path: Path) -> Callable[..., Path]:
    """Write the recorded checkpoint with its "cell" part changed."""

    def write(change: Callable[[dict[str, Any]], object], **options: object) -> Path:
        changed = {**content, "cell": copy.deepcopy(content["cell"])}
        change(changed["cell"])
        torch.save(changed, tmp_path / "models.ckpt", **options)
        return tmp_path / "models.ckpt"

    return write


def test_names_read_both_ways(content: dict[str, Any]) -> None:
    names = content["cell"]["state_dict"]
    targets = {name: target_name(name) for name in names}
    with torch.device("meta"):
        network = ScFoundation(
            ScFoundationConfig(200, 2, 24, 4, 2, 16, 2, 8, num_bins=10), genes=[f"G{i}" for i in range(200)]
        )
    assert set(targets.values()) == set(network.state_dict())
    assert all(source_name(str(target)) == name for name, target in targets.items())
    assert len({row for name in names for row in TABLE if target_name(name) == _by_row(row, name)}) == len(TABLE)
    for wrapped in (f"module.{next(iter(names))}", next(iter(names)).removeprefix("model.")):
        assert target_name(wrapped) == targets[next(iter(names))]
    for foreign in (
        "model.token_emb.mlp3.weight",
        "model.encoder.transformer_encoder.x.norm1.bias",
        "submodel.norm.bias",
    ):
        assert target_name(foreign) is None
    assert source_name("encoder.layers.0.ff3.weight") is None


def _by_row(row: tuple[str, str], name: str) -> str | None:
    match = re.fullmatch(row[0], name.removeprefix("model."))
    return row[1].format(*match.groups()) if match else None


@pytest.mark.parametrize("part", ["cell", "gene", "rde"])
def test_command(part: str, genes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "out"
    typed = ["convert", str(RECORDED), "--genes", str(genes), "--output", str(folder)]
    assert cli.main([*typed, "--part", part]) == 0
    shown = capsys.readouterr().out
    assert f"load it with load_model('{folder}')" in shown.replace("\n", "") and "identical" in shown
    assert {x.name for x in folder.iterdir()} == {"config.json", "model.safetensors", "genes.txt", "conversion.json"}
    record = json.loads((folder / "conversion.json").read_text())
    assert record["part"] == part and record["source"] == "scfoundation.ckpt" and "licence" not in record
    assert record["names"][PROJECTION] == "decoder.layers.1.attention.projection"
    assert load_model(folder).genes == tuple(f"G{i}" for i in range(200))
    # The same again is replaced, another part is not.
    assert cli.main([*typed, "--part", part]) == 0
    assert cli.main([*typed, "--part", {"cell": "gene"}.get(part, "cell")]) == 2
    assert "it was not made from part" in capsys.readouterr().err


def test_default_folder_and_dtype(altered: Callable[..., Path], genes: Path) -> None:
    done = convert_part(altered(lambda _: None), Options(genes=genes, dtype=torch.float16))
    assert done.folder.name == "models-cell"
    # Half precision has 11 bits: each number is off by at most 2^-11 of itself.
    assert 0 < done.record["validation"]["weights"] <= 2**-11
    assert load_model(done.folder).gene_emb.weight.dtype == torch.float32


def test_legacy_files_and_flat_configurations(altered: Callable[..., Path], genes: Path) -> None:
    def flatten(part: dict[str, Any]) -> None:
        part["config"] = part["config"]["model_config"]["mae_autobin"]

    checkpoint = altered(flatten, _use_new_zipfile_serialization=False)
    assert cli.main(["convert", str(checkpoint), "--genes", str(genes)]) == 0


def test_published_weights_carry_their_licence(tmp_path: Path) -> None:
    """A network of the published vocabulary needs no --genes; its folder says whose weights these are."""
    torch.manual_seed(0)
    config = ScFoundationConfig(19_264, 1, 8, 1, 1, 8, 1, 4, num_bins=4)
    state = {str(source_name(name)): x for name, x in ScFoundation(config).state_dict().items()}
    fields = {
        "seq_len": 19_266,
        "bin_num": 4,
        "bin_alpha": 1.0,
        "encoder": {"hidden_dim": 8, "depth": 1, "heads": 1, "module_type": "transformer", "norm_first": False},
        "decoder": {"hidden_dim": 8, "depth": 1, "heads": 1, "dim_head": 4, "module_type": "performer"},
    }
    torch.save({"cell": {"config": fields, "state_dict": state}}, tmp_path / "models.ckpt")
    done = convert_part(tmp_path / "models.ckpt")
    assert "non-commercial" in done.record["licence"] and "redistributed" in done.record["licence"]
    assert load_model(done.folder).genes[0] == "A1BG"


def config_of(part: dict[str, Any]) -> dict[str, Any]:
    return part["config"]["model_config"]["mae_autobin"]


def drop(part: dict[str, Any], name: str) -> None:
    del part["state_dict"][name]


WRONG: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "projection": (
        lambda p: drop(p, PROJECTION),
        "projection_matrix: its outputs cannot be repeated without the saved ones; nothing was written",
    ),
    "missing": (lambda p: drop(p, "model.norm.bias"), "lacks model.norm.bias"),
    "unknown": (lambda p: p["state_dict"].update({"model.extra": torch.ones(1)}), "holds model.extra, which the name"),
    "left over": (
        lambda p: p["state_dict"].update({"model.encoder.transformer_encoder.2.norm1.bias": torch.ones(24)}),
        "holds model.encoder.transformer_encoder.2.norm1.bias, which its configuration has no place for",
    ),
    "twice": (lambda p: p["state_dict"].update({"norm.bias": torch.ones(16)}), "both model.norm.bias and norm.bias"),
    "shape": (
        lambda p: p["state_dict"].update({"model.norm.bias": torch.ones(15)}),
        r"model.norm.bias has shape \(15,\) of float32, its configuration asks for \(16,\)",
    ),
    "kind": (
        lambda p: p["state_dict"].update({"model.norm.bias": torch.ones(16, dtype=torch.int64)}),
        "of int64, its configuration asks for .* of float32",
    ),
    "nan": (lambda p: p["state_dict"]["model.norm.bias"].fill_(float("nan")), "model.norm.bias holds NaN"),
    "no tensor": (lambda p: p["state_dict"].update({"model.norm.bias": 1.0}), "'model.norm.bias', which is no tensor"),
    "no config": (lambda p: p.pop("config"), "part 'cell' has no config"),
    "pre-norm": (lambda p: config_of(p)["encoder"].update(norm_first=True), "encoder.norm_first=True: only False"),
    "other decoder": (lambda p: config_of(p)["decoder"].update(module_type="linear"), "=linear: only performer"),
    "other model": (lambda p: config_of(p).update(model="mae"), "model=mae: only mae_autobin"),
    "no depth": (lambda p: config_of(p)["encoder"].pop("depth"), "configuration lacks 'depth'"),
    "depth": (lambda p: config_of(p)["encoder"].update(depth="two"), "encoder_layers=two: must be a whole number"),
}


@pytest.mark.parametrize("what", WRONG)
def test_bad_parts(what: str, altered: Callable[..., Path], genes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, says = WRONG[what]
    checkpoint = altered(change)
    before = {x.name for x in checkpoint.parent.iterdir()}
    with pytest.raises(UserError, match=says):
        convert_part(checkpoint, Options(genes=genes))
    assert cli.main(["convert", str(checkpoint), "--genes", str(genes)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    assert {x.name for x in checkpoint.parent.iterdir()} == before  # nothing was written


def test_another_gene_count(altered: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has 200 genes, not the published 19,264; give their list with --genes FILE"):
        convert_part(RECORDED)
    (tmp_path / "few.txt").write_text("A\nB\n")
    with pytest.raises(UserError, match=r"few.txt has 2 symbols, .* has 200 genes"):
        convert_part(RECORDED, Options(genes=tmp_path / "few.txt"))


def test_wrong_part_and_wrong_files(content: dict[str, Any], genes: Path, tmp_path: Path) -> None:
    file = tmp_path / "models.ckpt"
    torch.save({"cell": content["cell"], "gene": content["gene"]}, file)
    with pytest.raises(UserError, match="has no part 'rde'; it has cell, gene"):
        convert_part(file, Options(part="rde", genes=genes))
    for other in ({"state_dict": {}}, [1, 2], content["cell"]["state_dict"]):
        torch.save(other, file)
        with pytest.raises(UserError, match="holds none of scFoundation's parts cell, gene, rde"):
            convert_part(file, Options(genes=genes))
    whole = RECORDED.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:100], b"", b"PK\x03\x04 nothing", whole[:50] + bytes(200_000)):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match="models.ckpt: is damaged"):
            convert_part(file, Options(genes=genes))
    with pytest.raises(UserError, match="No such file"):
        convert_part(tmp_path / "missing.ckpt", Options(genes=genes))


class Payload:
    """What a hostile file would run when it is unpickled: it makes a folder."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.trace),)


def test_nothing_of_the_file_is_run(content: dict[str, Any], genes: Path, tmp_path: Path) -> None:
    file, payload = tmp_path / "models.ckpt", Payload(tmp_path / "trace")
    torch.save({**content, "cell": {**content["cell"], "config": payload}}, file)
    with pytest.raises(UserError, match=r"more than tensors and plain values \(posix.mkdir\), and would run code"):
        convert_part(file, Options(genes=genes))
    file.write_bytes(pickle.dumps(payload))
    with pytest.raises(UserError, match="models.ckpt: "):
        convert_part(file, Options(genes=genes))
    assert not payload.trace.exists()


def test_help_shows_both_kinds(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["convert", "--help"]) == 0
    text = capsys.readouterr().out
    assert "--part {cell,gene,rde}" in text and "--num-heads" in text


def test_script_runs_uninstalled(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "convert" / "scf2pt.py"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "--part" in done.stdout, done.stderr
