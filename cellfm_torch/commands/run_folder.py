"""The folder of one run: what it was asked, how far it is, what came out. Files are written beside and renamed.

Of several processes the first one looks after it, and the others rely on that.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from cellfm_torch.errors import UserError, shortened
from cellfm_torch.files import write_text
from cellfm_torch.processes import rank

# Options that may change between a run and its continuation without making it another run.
FREE = (
    "resume",
    "run_dir",
    "callbacks.progress",
    "callbacks.guard",
    "callbacks.activation_checkpointing",
    "trainer.max_steps",
    "trainer.max_epochs",
    "trainer.max_time",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.accumulate_grad_batches",
    "trainer.strategy",
    "trainer.use_distributed_sampler",
)


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Return {dotted name: value} of a nested configuration."""
    if not isinstance(node, dict):
        return {prefix.rstrip("."): node}
    return {name: value for key, child in node.items() for name, value in _flat(child, f"{prefix}{key}.").items()}


class RunFolder:
    """One run's folder.

    Parameters
    ----------
    path
        Need not exist yet.
    free
        Options that may change between a run and its continuation; names that begin so.
    instead
        What to do where the folder holds another run.

    Attributes
    ----------
    config_file, checkpoint, metrics_file, model
        config.yaml (resolved), checkpoints/last.ckpt, metrics.json and the model folder inside it.
    """

    def __init__(
        self, path: str | Path, *, free: tuple[str, ...] = FREE, instead: str = "give another run_dir"
    ) -> None:
        self.path = Path(path)
        self.free = free
        self.instead = instead
        self.config_file = self.path / "config.yaml"
        self.checkpoint = self.path / "checkpoints" / "last.ckpt"
        self.metrics_file = self.path / "metrics.json"
        self.model = self.path / "model"
        self._is_new = False

    def check(self, cfg: DictConfig, *, resume: bool) -> None:
        """Refuse a folder that this run must not write to. Writes nothing.

        Raises
        ------
        UserError
            If the folder holds another run, or this one without `resume`, or something that is no run.
        """
        if rank():
            return
        if self.path.is_file():
            raise UserError(f"run_dir={self.path} is a file; give a folder")
        if not self.config_file.is_file():
            if self.path.is_dir() and any(self.path.iterdir()):
                raise UserError(f"run_dir={self.path} is not empty and holds no run; give another folder")
            return
        old, new = self._recorded(), _flat(resolved(cfg))
        both = sorted(old.keys() | new.keys())
        changed = [k for k in both if old.get(k) != new.get(k) and not k.startswith(self.free)]
        if changed:
            details = ", ".join(f"{k}={old.get(k)} there, {new.get(k)} now" for k in changed[:3])
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise UserError(f"run_dir={self.path} already holds another run ({details}{more}); {self.instead}")
        if not resume:
            raise UserError(
                f"run_dir={self.path} already holds this run: go on with resume=true, or use another run_dir"
            )

    def _recorded(self) -> dict[str, Any]:
        """Return what the run in the folder was asked, {dotted name: value}."""
        try:
            return _flat(read_config(self.config_file))
        except Exception as problem:  # whatever the damaged text makes YAML or OmegaConf raise
            raise self._damaged(self.config_file, problem) from None

    def _damaged(self, file: Path, problem: Exception) -> UserError:
        reason = shortened(problem, longest=150)
        return UserError(f"{file}: is damaged or was not written by a run ({reason}): restore it, or {self.instead}")

    def finished(self, cfg: DictConfig) -> dict[str, float] | None:
        """Return the metrics of a run that has ended as asked, or None."""
        if not self.config_file.is_file():
            return None
        old, new = self._recorded(), _flat(resolved(cfg))
        if any(old.get(k) != new.get(k) for k in old.keys() | new.keys() if k.startswith("trainer.max_")):
            return None
        try:  # last: where several processes ask, the first one may be about to begin again
            metrics = json.loads(self.metrics_file.read_text(encoding="utf-8"))
            return {str(name): float(value) for name, value in metrics.items()}
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, AttributeError) as problem:
            raise self._damaged(self.metrics_file, problem) from None

    def create(self, cfg: DictConfig) -> None:
        """Make the folder and record the resolved configuration."""
        if rank():
            return
        self._is_new = not self.path.is_dir() or not any(self.path.iterdir())
        self.path.mkdir(parents=True, exist_ok=True)
        self.metrics_file.unlink(missing_ok=True)  # of a run that is now going on for longer
        write_text(self.config_file, OmegaConf.to_yaml(OmegaConf.create(resolved(cfg))))

    def withdraw(self) -> None:
        """Remove a folder that :meth:`create` has made for a run that never started."""
        if self._is_new:
            shutil.rmtree(self.path)

    def remove(self) -> None:
        """Remove the folder and what the run has left there."""
        shutil.rmtree(self.path)

    def finish(self, metrics: dict[str, float]) -> None:
        """Record the final metrics; a folder with metrics.json is a finished run."""
        if rank():
            return
        write_text(self.metrics_file, json.dumps(metrics, indent=2) + "\n")


def read_config(file: Path) -> Any:
    """Return what a run was asked, as plain values; what a damaged file makes YAML or OmegaConf raise comes through."""
    text = file.read_text(encoding="utf-8")
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
        raise ValueError("aliases, which no run writes")  # a few lines of them can stand for gigabytes
    return OmegaConf.to_container(OmegaConf.create(text))


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """Return the configuration as plain values, without Hydra's own part."""
    container = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(container, dict)
    return {str(k): v for k, v in container.items() if k != "hydra"}
