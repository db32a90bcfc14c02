"""The main job learns: on held-out cells it beats the training mean of each gene, here with the seed as it ships."""

from __future__ import annotations

import json
from pathlib import Path

from cellfm_torch.train import main


def test_beats_the_training_mean(tmp_path: Path) -> None:
    # The job as it ships, with 200 of its 1,500 steps; 150 are too few for the decoder by cell. Seeds 1 and 2 passed
    # as well; they are left out for their minutes.
    job = ["+experiment=pretrain", f"run_dir={tmp_path / 'run'}", "trainer.max_steps=200"]
    assert main([*job, "trainer.val_check_interval=200", "~callbacks.umap"]) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    for head in ("by_gene", "by_cell"):
        assert metrics[f"test_mse_{head}"] < metrics["test_mse_baseline"], metrics
        assert metrics[f"test_r_{head}"] > metrics["test_r_baseline"], metrics
