"""A checkout of biomap-research/scFoundation as the other side; it is run where it lies, nothing of it is copied.

Shapes: n visible positions of a cell, P positions (the genes, T, S), C = 4 D width of the cell embedding.

Its script embeds one cell at a time and moves every tensor to a GPU. Here its network and its gathering of visible
genes are called as the script calls them, on the CPU, and from values that are normalised already: its reading and
normalising, cell by cell through pandas, is not timed.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cellfm_torch import CellBatch, ScFoundation, ScFoundationConfig
from cellfm_torch.convert.scf_names import PREFIX, source_name
from cellfm_torch.errors import UserError

PAD, MASK = 103, 102
"""Values that stand for "nothing here" and "hidden" in the official code."""


def laid_out(batch: CellBatch, num_genes: int) -> list[Tensor]:
    """Return what the script makes of each cell: values of all genes, log10 T, log10 S, (1, P)."""
    if batch.read_depth is None:
        raise ValueError("the batch has no read depths")
    depths = batch.read_depth.log10().flip(1)
    cells = []
    for i in range(batch.num_cells):
        genes = slice(int(batch.offsets[i]), int(batch.offsets[i + 1]))
        x = torch.zeros(1, num_genes + 2)
        x[0, batch.gene_ids[genes]] = batch.values[genes].float()
        x[0, num_genes:] = depths[i].float()
        cells.append(x)
    return cells


def official_config(config: ScFoundationConfig) -> dict[str, Any]:
    """Return the sizes under the names that the official code asks for."""
    encoder = {"hidden_dim": config.encoder_dim, "depth": config.encoder_layers, "heads": config.encoder_heads}
    decoder = {"hidden_dim": config.decoder_dim, "depth": config.decoder_layers, "heads": config.decoder_heads}
    return {
        "model": "mae_autobin",
        "n_class": MASK + 2,
        "seq_len": config.num_positions,
        "pad_token_id": PAD,
        "mask_token_id": MASK,
        "bin_num": config.num_bins,
        "bin_alpha": config.bin_alpha,
        "encoder": encoder | {"module_type": "transformer"},
        "decoder": decoder | {"module_type": "performer", "dim_head": config.decoder_head_dim},
    }


class OfficialScFoundation:
    """The official network with our weights.

    Parameters
    ----------
    checkout
        Folder that holds ``model/load.py``.
    network
        Whose weights it gets.

    Raises
    ------
    UserError
        If the folder is no such checkout, or its network has other tensors.
    """

    def __init__(self, checkout: Path, network: ScFoundation) -> None:
        folder = checkout / "model"
        if not (folder / "load.py").is_file():
            raise UserError(f"--peer {checkout}: no checkout of scFoundation (it has no model/load.py)")
        if "local_attention" not in sys.modules and importlib.util.find_spec("local_attention") is None:
            # Imported there for a kind of attention that the published network does not have.
            stand_in = types.ModuleType("local_attention")
            stand_in.LocalAttention = None  # type: ignore[attr-defined]
            sys.modules["local_attention"] = stand_in
        sys.path.insert(0, str(folder))
        try:
            self.code: Any = importlib.import_module("load")
        finally:
            sys.path.remove(str(folder))
        self.network: Any = self.code.select_model(official_config(network.config))
        weights = {str(source_name(name)).removeprefix(PREFIX): x for name, x in network.state_dict().items()}
        try:
            self.network.load_state_dict(weights, strict=True)
        except RuntimeError as error:
            raise UserError(f"--peer {checkout}: other tensors than ours: {' '.join(str(error).split())}") from error
        self.network.eval()
        self.ids = torch.arange(network.config.num_positions)[None]

    @torch.no_grad()
    def embed(self, cells: list[Tensor]) -> Tensor:
        """Return the cell embeddings (B, C) of cells (1, P) each, one after another."""
        return torch.cat([self._embed_one(x) for x in cells])

    def _embed_one(self, x: Tensor) -> Tensor:
        visible = x > 0
        values, padding = self.code.gatherData(x, visible, PAD)  # (1, n)
        ids, _ = self.code.gatherData(self.ids, visible, PAD)
        tokens = self.network.token_emb(values[..., None], output_weight=0) + self.network.pos_emb(ids)
        encoded = self.network.encoder(tokens, padding)[0]
        genes, ends = encoded[:-2], encoded[-2:]
        return torch.cat([ends.flip(0).flatten(), genes.amax(0), genes.mean(0)])[None]
