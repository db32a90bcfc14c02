"""The main job learns: on held-out cells it beats the training mean of each gene, whatever the seed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cellfm_torch.train import main


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_beats_the_training_mean(seed: int, tmp_path: Path) -> None:
    # The job as it ships, with 200 of its 1,500 steps; 150 are too few for the decoder by cell.
    job = ["+experiment=pretrain", f"seed={seed}", f"run_dir={tmp_path / 'run'}", "trainer.max_steps=200"]
    assert main([*job, "trainer.val_check_interval=200", "~callbacks.umap"]) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    for head in ("by_gene", "by_cell"):
        assert metrics[f"test_mse_{head}"] < metrics["test_mse_baseline"], metrics
        assert metrics[f"test_r_{head}"] > metrics["test_r_baseline"], metrics
