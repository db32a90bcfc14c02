"""FSDP2 through Lightning: any task of ours sharded by layer, with sharded checkpoints that are written meanwhile."""

from __future__ import annotations

import sys
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch.distributed.device_mesh import DeviceMesh

from cellfm_torch.distributed.checkpoints import REST, part_of, put_in_place, remove, remove_kept
from cellfm_torch.distributed.checksums import ChecksumWriter
from cellfm_torch.distributed.sharding import shard
from cellfm_torch.distributed.sound import damage, kept, newest_sound
from cellfm_torch.errors import UserError
from cellfm_torch.files import written_beside


class ShardedStrategy(ModelParallelStrategy):
    """Lightning's ModelParallelStrategy that shards a task's network itself, and saves while training goes on.

    Tasks need no ``configure_model``: each layer of their networks is sharded by itself, see
    :func:`~cellfm_torch.distributed.sharding.shard`. Runs on GPUs (NCCL) and CPUs (gloo).

    Parameters
    ----------
    replicas
        Copies of the weights, each sharded over its share of the processes: 1 shards over all of them, ``"nodes"``
        within each node (hybrid sharding: weights are gathered over the fast links only).
    offload
        Keep weights and optimiser on the CPU, where the optimiser then runs.
    save_meanwhile
        Write checkpoints in the background: training waits only until the shards are copied.
    options
        Of ModelParallelStrategy: ``process_group_backend``, ``timeout``.

    Notes
    -----
    A checkpoint is a folder; it takes its name when all processes have written their part, and the one that had it is
    kept as ``NAME.before.ckpt``: training goes on from that where a file of the newer one is damaged. With precision
    bf16-mixed the numbers are those of one process with it: weights are kept, sent and added up in float32.

    Raises
    ------
    UserError
        If `replicas` does not divide the processes.
    """

    def __init__(
        self,
        *,
        replicas: int | Literal["nodes"] = 1,
        offload: bool = False,
        save_meanwhile: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if replicas != "nodes" and (not isinstance(replicas, int) or replicas < 1):
            raise UserError(f"trainer.strategy.replicas={replicas}: must be at least 1, or nodes")
        self.replicas = replicas
        self.offload = offload
        self.save_meanwhile = save_meanwhile
        self._saving: Future[Any] | None = None
        self._gloo: dist.ProcessGroup | None = None

    def setup_environment(self) -> None:
        """Start the processes' group, and lay them out as (replicas, shards)."""
        replicas = self.num_nodes if self.replicas == "nodes" else self.replicas
        if self.world_size % replicas:
            raise UserError(f"trainer.strategy.replicas={replicas} does not divide {self.world_size} processes")
        self._data_parallel_size, self._tensor_parallel_size = replicas, self.world_size // replicas
        super().setup_environment()

    @property
    def sharded_over(self) -> DeviceMesh:
        """The processes as FSDP2 takes them; the names of the dimensions are Lightning's."""
        return self.device_mesh if self._data_parallel_size != 1 else self.device_mesh["tensor_parallel"]

    def setup(self, trainer: pl.Trainer) -> None:
        """Shard the networks, and build the optimiser of what is left here."""
        assert self.model is not None and self.accelerator is not None
        self.accelerator.setup(trainer)
        shard(self.model, self.sharded_over, offload=self.offload)
        self.model = self.precision_plugin.convert_module(self.model)
        if not self.offload:
            self.model_to_device()
        self.barrier()
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write the folder of a sharded checkpoint; returns when training may change the weights again."""
        from torch.distributed.checkpoint.state_dict_saver import async_save, save

        if storage_options is not None:
            raise TypeError("storage_options have no meaning for a local folder")
        self.finish_saving()
        path = Path(self.broadcast(str(filepath)))  # from here on the first process has put the last one in place
        part = part_of(path)
        if self.global_rank == 0:
            remove(part)
            part.mkdir(parents=True)
        self.barrier()
        tensors = {"state_dict": checkpoint.pop("state_dict")}
        states = checkpoint.pop("optimizer_states", [])
        tensors.update({f"optimizer_{number}": state for number, state in enumerate(states)})
        if self.global_rank == 0:
            with written_beside(part / REST) as rest:
                torch.save(checkpoint, rest)
        writer = ChecksumWriter(part)
        if not self.save_meanwhile:
            save(tensors, storage_writer=writer)
            self._put_in_place(path)
            self.barrier()
            return
        if self._gloo is None:  # the background must not get between the collectives of training
            self._gloo = dist.new_group(backend="gloo")
        saving = async_save(tensors, storage_writer=writer, process_group=self._gloo)
        assert isinstance(saving, Future)
        # The first process ends its save after all others, when it writes .metadata.
        self._saving = _then(saving, lambda: self._put_in_place(path))

    def _put_in_place(self, path: Path) -> None:
        if self.global_rank == 0:
            put_in_place(path)

    def finish_saving(self) -> None:
        """Wait for the checkpoint that is being written."""
        if self._saving is not None:
            saving, self._saving = self._saving, None
            saving.result()

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint, sharded or whole, written on any number of processes; the one before where it is damaged.

        Raises
        ------
        UserError
            If both are.
        """
        self.finish_saving()
        path = Path(checkpoint_path)
        # What is there, the first process says: on a network disk others may still see what was there before.
        there: list[Path] = self.broadcast(kept(path) if self.global_rank == 0 else [])
        sound = newest_sound(there, self._warn, wrong_with=self._damage)
        return super().load_checkpoint(sound or path, weights_only=weights_only)

    def _damage(self, path: Path) -> str | None:
        """Return what is wrong with a checkpoint, the same to all processes, each of which reads a share of it."""
        share = slice(self.global_rank, None, self.world_size)
        another_reads_it = path.is_file() and self.global_rank != 0
        found: list[str | None] = [None] * self.world_size
        dist.all_gather_object(found, None if another_reads_it else damage(path, parts=share))
        return next(filter(None, found), None)

    def _warn(self, line: str) -> None:
        if self.global_rank == 0:
            print(f"warning: {line}", file=sys.stderr, flush=True)

    def remove_checkpoint(self, filepath: str | Path) -> None:
        """Remove a checkpoint and the one before it."""
        self.finish_saving()
        if self.global_rank == 0:
            remove_kept(Path(filepath))

    def teardown(self) -> None:
        """End what is being written."""
        self.finish_saving()
        super().teardown()


def _then(saving: Future[Any], action: Any) -> Future[None]:
    """Return what is done when a save has ended well and `action` after it."""
    done: Future[None] = Future()

    def follow(ended: Future[Any]) -> None:
        try:
            ended.result()
            action()
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(None)

    saving.add_done_callback(follow)
    return done
