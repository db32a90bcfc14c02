"""Model folders: what is written comes back, and what is damaged is refused in one line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cellfm_torch import CellFM, CellFMConfig, files
from cellfm_torch.errors import UserError
from cellfm_torch.files import written_beside
from cellfm_torch.model import checkpoint

SYMBOLS = [f"HLA-{i}.1" for i in range(29)] + ["Ünï", "a b"]  # symbols are lines, not words
FILES = {"config.json", "model.safetensors", "genes.txt"}
WRITTEN = FILES | {"README.md"}


def small(**variant: bool) -> CellFM:
    torch.manual_seed(3)
    return CellFM(CellFMConfig(num_layers=2, dim=32, num_heads=2, num_genes=31, **variant), genes=SYMBOLS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    small().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_model_card_is_filled_in_and_stays(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    weights = sum(x.numel() for x in small().parameters())
    assert f"CellFM of {weights:,} weights over 31 human genes" in card and "| dim | 32 |" in card
    assert "CC BY-NC-ND" in card and "{" not in card
    (folder / "README.md").write_text("mine")
    small().save_pretrained(folder)
    assert (folder / "README.md").read_text() == "mine"


@pytest.mark.parametrize("variant", [{}, {"zeros": True}, {"read_depth": True}, {"zeros": True, "read_depth": True}])
def test_round_trip_is_exact(tmp_path: Path, variant: dict[str, bool]) -> None:
    network = small(**variant)
    network.save_pretrained(tmp_path / "deep" / "model")
    loaded = CellFM.from_pretrained(str(tmp_path / "deep" / "model"))
    assert {path.name for path in (tmp_path / "deep" / "model").iterdir()} == WRITTEN
    assert loaded.config == network.config and loaded.genes == tuple(SYMBOLS)
    ours, theirs = network.state_dict(), loaded.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) and theirs[name].dtype == torch.float32 for name in ours)


def test_loaded_network_trains_and_saves_over_itself(folder: Path) -> None:
    loaded = CellFM.from_pretrained(folder)
    assert loaded.training and all(p.requires_grad and p.is_leaf for p in loaded.parameters())
    optimizer = torch.optim.SGD(loaded.parameters(), lr=1.0)
    loaded.gene_emb(torch.tensor([1, 2])).sum().backward()
    optimizer.step()
    loaded.save_pretrained(folder)
    again = CellFM.from_pretrained(folder)
    assert torch.equal(again.gene_emb.weight, loaded.gene_emb.weight)
    assert torch.equal(again.gene_emb.weight[1], small().gene_emb.weight[1] - 1)


def test_loading_draws_no_random_numbers(folder: Path) -> None:
    torch.manual_seed(8)
    expected = torch.rand(4)
    torch.manual_seed(8)
    CellFM.from_pretrained(folder)
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtype_is_that_of_the_loaded_weights(folder: Path, dtype: torch.dtype) -> None:
    loaded = CellFM.from_pretrained(folder, dtype=dtype)
    assert {x.dtype for x in loaded.state_dict().values()} == {dtype}
    assert torch.equal(loaded.cls_token, small().cls_token.to(dtype))
    loaded.save_pretrained(folder)  # a file in that dtype is read as float32 unless told otherwise
    assert torch.equal(CellFM.from_pretrained(folder).cls_token, small().cls_token.to(dtype).float())


def test_a_network_without_genes_is_not_saved(tmp_path: Path) -> None:
    network = CellFM(CellFMConfig(num_layers=1, dim=32, num_heads=1, num_genes=31))
    with pytest.raises(ValueError, match="does not know its genes"):
        network.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("failing", sorted(FILES))
def test_a_failing_write_leaves_the_earlier_file(folder: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    before = {name: (folder / name).read_bytes() for name in FILES}

    rename = os.replace

    def fail(part: Path, path: Path) -> None:
        if path.name == failing:
            raise OSError(28, "No space left on device")
        rename(part, path)

    monkeypatch.setattr(files.os, "replace", fail)
    network = small()
    torch.nn.init.zeros_(network.cls_token)
    with pytest.raises(OSError, match="No space left"):
        network.save_pretrained(folder)
    assert {path.name for path in folder.iterdir()} == WRITTEN  # no .part
    assert (folder / failing).read_bytes() == before[failing]
    monkeypatch.undo()
    CellFM.from_pretrained(folder)


def test_nobody_sees_half_a_file(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    with written_beside(target) as part:
        part.write_text("ne")
        assert target.read_text() == "old" and part.parent == target.parent  # beside: a rename cannot cross disks
        part.write_text("new")
    assert target.read_text() == "new" and list(tmp_path.iterdir()) == [target]


def test_an_interrupted_first_save_is_not_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint.json, "dumps", lambda *_, **__: 1 / 0)  # config.json comes last
    with pytest.raises(ZeroDivisionError):
        small().save_pretrained(tmp_path / "model")
    monkeypatch.undo()
    with pytest.raises(UserError, match="has no config.json"):
        CellFM.from_pretrained(tmp_path / "model")


def refusal(folder: Path) -> str:
    """Load a folder that must be refused; the message, in one line."""
    with pytest.raises(UserError) as refused:
        CellFM.from_pretrained(folder)
    message = str(refused.value)
    assert "\n" not in message and str(folder) in message and len(message) < 500, message
    return message


def test_missing_folder(tmp_path: Path) -> None:
    assert "is not a model folder" in refusal(tmp_path / "nothing")
    (tmp_path / "file").write_text("x")
    assert "is not a model folder" in refusal(tmp_path / "file")


@pytest.mark.parametrize("name", sorted(FILES))
def test_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert f"has no {name}" in refusal(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"x"', "{}", "\x00", '{"num_layers": 2}'])
def test_bad_json(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    assert "config.json is not a configuration of this model" in refusal(folder)


def test_config_that_is_not_text(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"\xff\xfe\x00")
    assert "config.json is not a configuration" in refusal(folder)


def edit(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_config_of_another_model(folder: Path) -> None:
    edit(folder, model="ScFoundation", some_field_of_its_own=1)
    assert "describes a ScFoundation, not a CellFM" in refusal(folder)


def test_unknown_and_impossible_fields(folder: Path) -> None:
    edit(folder, num_layer=3)
    assert "'num_layer'" in refusal(folder)
    (folder / "config.json").write_text(json.dumps({"num_layers": 2, "dim": 32, "num_heads": 5, "num_genes": 31}))
    assert "not a multiple of num_heads=5" in refusal(folder)


def test_wrong_number_of_genes(folder: Path) -> None:
    (folder / "genes.txt").write_text("A\nB\n")
    message = refusal(folder)
    assert "genes.txt" in message and "2 gene symbols were given for a model of 31 genes" in message


def test_genes_that_are_not_text(folder: Path) -> None:
    (folder / "genes.txt").write_bytes(b"\xff\xfe\n" * 31)
    assert "genes.txt is not UTF-8" in refusal(folder)


def test_genes_with_foreign_line_ends(folder: Path) -> None:
    (folder / "genes.txt").write_bytes("\r\n".join([*SYMBOLS, "", ""]).encode())
    assert CellFM.from_pretrained(folder).genes == tuple(SYMBOLS)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.5, 0.999])
def test_truncated_weights(folder: Path, share: float) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert "model.safetensors cannot be read" in refusal(folder)


def test_weights_that_are_something_else(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"PK\x03\x04" + bytes(1000))
    assert "model.safetensors cannot be read" in refusal(folder)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda x: x.pop("encoder.1.glu.v_proj.weight"), "lacks the tensor encoder.1.glu.v_proj.weight"),
        (lambda x: x.update({"encoder.2.extra": torch.zeros(1)}), "holds encoder.2.extra, which"),
        (lambda x: x.update({"cls_token": torch.zeros(1, 1, 31)}), r"cls_token has shape \(1, 1, 31\)"),
        (lambda x: x.update({"gene_emb.weight": torch.zeros(40, 32)}), r"gene_emb.weight has shape \(40, 32\)"),
        (lambda x: x.pop("zero_emb"), "lacks the tensor zero_emb"),  # a buffer here, and part of the file
    ],
)
def test_wrong_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object], part: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match=part):
        CellFM.from_pretrained(folder)
    refusal(folder)


def test_weights_of_another_variant(folder: Path) -> None:
    edit(folder, zeros=True)
    assert "lacks the tensor gene_decoder.expressed.0.weight" in refusal(folder)
    edit(folder, zeros=False, num_layers=1)
    assert "holds encoder.1." in refusal(folder)
