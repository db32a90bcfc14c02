"""The official cell-type heads: logits, losses and gradients as recorded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from cases import FOLDER, Case, load, relative_error

from cellfm_torch import CellFM, CellFMConfig, UserError, load_model, pretraining_loss
from cellfm_torch.convert.ms2pt import main as convert
from cellfm_torch.convert.names import target_name
from cellfm_torch.model.cell_types import HEADS
from cellfm_torch.model.head_file import load_head, save_head
from cellfm_torch.tasks.annotate import annotation_loss

# As for the backbone, see test_recorded.py: float32 sums in another order.
OUTPUTS, GRADIENTS, LOSS = 3e-5, 1e-4, 3e-6


@pytest.fixture(scope="module", params=["label", "annotation"])
def case(request: pytest.FixtureRequest) -> Case:
    return load(request.param)


def head_of(case: Case) -> torch.nn.Module:
    tensors = {name.removeprefix("head."): x for name, x in case.converted.heads.items()}
    head = HEADS[str(case.converted.task)].for_network(case.network, len(tensors["cluster_emb"]))
    head.load_state_dict(tensors, strict=True)
    return head.eval()


def test_logits_losses_and_gradients(case: Case) -> None:
    head, arrays = head_of(case), case.arrays
    case.network.zero_grad()
    prediction = case.network(case.batch)
    by_gene, by_cell = head(prediction.encoding, case.batch)
    assert relative_error(by_gene, arrays["label_logits_gene"]) < OUTPUTS
    assert relative_error(by_cell, arrays["label_logits_cell"]) < OUTPUTS
    loss = annotation_loss((by_gene, by_cell), torch.from_numpy(arrays["label"]).long())
    if case.converted.task == "label":
        loss = loss + pretraining_loss(prediction, case.batch)
    loss.backward()
    assert abs(float(loss.detach()) / float(arrays["loss"].reshape(())) - 1) < LOSS
    ours = dict(case.network.named_parameters()) | {f"head.{name}": p for name, p in head.named_parameters()}
    errors = {}
    for key in (key for key in arrays if key.startswith("grad.")):
        gradient = ours[str(target_name(key[5:]))].grad
        assert gradient is not None, key
        difference = gradient.numpy().reshape(arrays[key].shape) - arrays[key]
        errors[key] = float(np.linalg.norm(difference) / np.linalg.norm(arrays[key]))
    assert len(errors) == (15 if case.converted.task == "label" else 4)
    assert max(errors.values()) < GRADIENTS, errors


@pytest.mark.parametrize("mode", ["parallel", "recurrent"])
def test_other_modes_give_the_same(case: Case, mode: str) -> None:
    head = head_of(case)
    for module in head.modules():
        if hasattr(module, "mode"):
            module.mode = mode
    with torch.no_grad():
        by_gene, by_cell = head(case.network.encode(case.batch), case.batch)
    assert relative_error(by_gene, case.arrays["label_logits_gene"]) < OUTPUTS
    assert relative_error(by_cell, case.arrays["label_logits_cell"]) < OUTPUTS


@pytest.mark.parametrize("name", ["label", "annotation"])
def test_a_converted_folder_has_its_head(name: str, tmp_path: Path) -> None:
    genes = tmp_path / "genes.txt"
    genes.write_text("".join(f"G{i}\n" for i in range(1, 102)))
    ckpt, folder = FOLDER / f"{name}.ckpt", tmp_path / "model"
    assert convert([str(ckpt), "--output", str(folder), "--genes", str(genes), "--num-heads", "4"]) == 0
    network = load_model(folder).eval()
    assert isinstance(network, CellFM)
    recorded = load(name)
    head = load_head(folder, network)
    by_gene, by_cell = head(network.encode(recorded.batch), recorded.batch)
    assert relative_error(by_gene, recorded.arrays["label_logits_gene"]) < OUTPUTS
    assert relative_error(by_cell, recorded.arrays["label_logits_cell"]) < OUTPUTS
    save_head(head, tmp_path)
    again = load_head(tmp_path, network).state_dict()
    assert again.keys() == head.state_dict().keys()
    assert all(torch.equal(x, again[key]) for key, x in head.state_dict().items())


def test_refusals(tmp_path: Path) -> None:
    recorded = load("annotation")
    with pytest.raises(UserError, match="has no heads.safetensors: this model has no cell-type head"):
        load_head(tmp_path, recorded.network)
    save_head(head_of(recorded), tmp_path)  # type: ignore[arg-type]
    small = CellFM(CellFMConfig.preset("tiny", num_layers=1, dim=32, num_heads=1))
    with pytest.raises(UserError, match=r"classifier.weight has shape \(1, 64\), a head for this model \(1, 32\)"):
        load_head(tmp_path, small)
    (tmp_path / "heads.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read"):
        load_head(tmp_path, small)
