"""The training command on several processes: one of them speaks and writes."""

from __future__ import annotations

from pathlib import Path

import torch
from jobs import flip
from launch import launch
from ranks import command

from cellfm_torch import CellFM
from cellfm_torch.distributed.checkpoints import is_sharded_checkpoint


def test_sharded_run_goes_on_with_one_process(small_cells: Path, tmp_path: Path) -> None:
    """Two processes, then the same run further with one; the folder is that of a run that was never sharded."""
    run = tmp_path / "run"
    job = [
        *("+experiment=pretrain", "trainer=fsdp", f"data.path={small_cells}", f"run_dir={run}"),
        *("trainer.accelerator=cpu", "data.token_budget=6144", "trainer.val_check_interval=2"),
    ]
    (code, said), other = launch(command, 2, [*job, "trainer.max_steps=3", "trainer.accumulate_grad_batches=1"])
    assert code == other[0] == 0, said
    assert said.count("the model, by gene") == 1 and "small.h5ad" in said
    assert "umap.png' not drawn: weights are sharded" in said
    assert "Training" in said and not other[1], "one process speaks"
    assert is_sharded_checkpoint(run / "checkpoints" / "last.ckpt")
    made = {"model/config.json", "model/model.safetensors", "model/genes.txt", "metrics.json", "config.yaml"}
    assert all((run / name).is_file() for name in made) and not list(run.rglob("*.part"))
    before = CellFM.from_pretrained(run / "model")
    more = ["trainer.max_steps=4", "trainer.accumulate_grad_batches=2", "resume=true"]
    ((code, said),) = launch(command, 1, [*job, *more])
    assert code == 0, said
    after = CellFM.from_pretrained(run / "model")
    assert not torch.equal(before.cls_token, after.cls_token)
    last, older = run / "checkpoints" / "last.ckpt", run / "checkpoints" / "last.before.ckpt"
    state = torch.load(last / "meta.pt", weights_only=True)
    assert state["global_step"] == 4
    for checkpoint in (last, older):
        flip(checkpoint / "__0_0.distcp")
    more = ["trainer.max_steps=5", "trainer.accumulate_grad_batches=1", "resume=true"]
    (code, said), other = launch(command, 2, [*job, *more])
    assert code == other[0] == 2
    *_, line = said.splitlines()
    wrong = "is damaged (the checksum of __0_0.distcp does not match)"
    assert "Traceback" not in said
    what = "restore one from a copy, or remove them to begin again [cellfm help training]"
    assert line == f"error: {last} {wrong}; {older} {wrong}: {what}"
    assert not other[1] or other[1].splitlines() == [line]
