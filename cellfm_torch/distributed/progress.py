"""A run that goes on with another number of processes, and another number of batches for each in a step."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.callbacks import Callback

from cellfm_torch.errors import UserError

KEY = "accumulate_grad_batches"


class OtherProcesses(Callback):
    """Tell Lightning's loop where in the epoch it is, where a process has more or fewer batches of it than before.

    Lightning counts the batches of a process. 2 processes are 1 that accumulates twice as many batches: of those it
    has then done twice as many, too.
    """

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Keep how many batches of a process make a step."""
        checkpoint[KEY] = trainer.accumulate_grad_batches

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Count in the batches of this run.

        Raises
        ------
        UserError
            If the checkpoint was written in the middle of a step.
        """
        now = trainer.accumulate_grad_batches
        then = checkpoint.get(KEY, now)
        if now == then or "loops" not in checkpoint:
            return
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["total"], progress["current"]):
            done = counts["processed"]
            if done % then:
                raise UserError(
                    f"the checkpoint was written after {done} batches, in the middle of a step of {then}: go on with "
                    f"trainer.accumulate_grad_batches={then}"
                )
            # The other counts are the same, or one behind while the batch is being finished.
            for name in counts:
                counts[name] += done // then * now - done
