"""Train a model: ``python -m cellfm_torch.train +experiment=pretrain``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from cellfm_torch.answers import answer
from cellfm_torch.commands import hydra_app
from cellfm_torch.quiet import quiet_lightning


@quiet_lightning()
def train(cfg: Any) -> int:
    """Run one training job from a composed configuration; returns the exit code.

    Raises
    ------
    UserError
        For what the user can put right; nothing has been written then.
    """
    import lightning.pytorch as pl
    from hydra.utils import instantiate
    from rich.console import Console

    from cellfm_torch.ops.backend import set_backend

    set_backend(cfg.backend)
    from cellfm_torch.commands.interrupt import Stopped, StopSignals
    from cellfm_torch.commands.run_folder import RunFolder
    from cellfm_torch.commands.training import chosen, fit, make_trainer
    from cellfm_torch.distributed.sharding import is_sharded
    from cellfm_torch.lost import Watched
    from cellfm_torch.processes import rank

    console = Console(quiet=rank() > 0)
    folder = RunFolder(cfg.run_dir)
    folder.check(cfg, resume=cfg.resume)
    done = folder.finished(cfg)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    with StopSignals() as signals:
        network = instantiate(cfg.model)
        task = instantiate(cfg.task, _partial_=True)(network, recipe=instantiate(cfg.optim))
        if done is None:
            data = instantiate(cfg.data, _partial_=True)(input_spec=network.input_spec)
            data.setup("fit")
            trainer = make_trainer(cfg, folder, signals, logger=chosen(cfg.logger))
            try:
                with Watched(trainer):
                    fit(trainer, task, data, cfg=cfg, folder=folder)
                    if trainer.is_global_zero or is_sharded(network):  # all of them hold a part of it
                        network.save_pretrained(folder.model)
                    done = dict(trainer.test(task, datamodule=data, weights_only=True, verbose=False)[0])
            except Stopped as stop:
                console.print(f"{stop}; saved in {folder.path}. Go on with the same command and resume=true.")
                return stop.exit_code
            folder.finish(done)
    answer(run_dir=folder.path, model=folder.model, metrics=done)
    console.print(task.summary(done))
    console.print(_next_steps(folder.path, cfg), highlight=False, soft_wrap=True)
    return 0


def _next_steps(run: Any, cfg: Any) -> str:
    """Say where everything is and what to do with it."""
    limit = "max_steps" if cfg.trainer.max_steps > 0 else "max_epochs"
    drawn = ", ".join(str(file) for file in (run / "umap.png", run / "loss_curve.png") if file.is_file())
    return f"""run folder: {run}
look:       {drawn}{"; " if drawn else ""}tensorboard --logdir {run}/logs
use:        cellfm_torch.load_model("{run}/model")
longer:     the same command with resume=true trainer.{limit}={2 * cfg.trainer[limit]}
your cells: cellfm train --data 'cells/*.h5ad' --run-dir runs/mine"""


def main(overrides: Sequence[str] | None = None) -> int:
    """Compose conf/train.yaml with overrides (default: the command line's) and train."""
    return hydra_app.run(train, config="train", overrides=sys.argv[1:] if overrides is None else overrides)


if __name__ == "__main__":
    sys.exit(main())
