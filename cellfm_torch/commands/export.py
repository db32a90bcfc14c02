"""The model of a checkpoint as a model folder: ``cellfm export CHECKPOINT --output FOLDER``. One process, no GPU."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cellfm_torch.answers import answer
from cellfm_torch.commands import hydra_app
from cellfm_torch.errors import UserError, shortened

NETWORK = "network."
"""What a task calls its network: the beginning of the names of its tensors."""

OURS = ("cellfm_torch.",)
"""Where what a run's configuration builds may come from."""


def export(cfg: Any) -> int:
    """Run one job from a composed configuration; returns the exit code.

    Raises
    ------
    UserError
        For what the user can put right.
    """
    from rich.console import Console

    from cellfm_torch.distributed.checkpoints import recover

    named = [cfg.checkpoint] if isinstance(cfg.checkpoint, str) else list(cfg.checkpoint)
    if len(named) != 1:
        raise UserError(f"checkpoint={','.join(map(str, named))}: give one run folder or checkpoint")
    given, output = Path(named[0]).expanduser(), Path(cfg.output).expanduser()
    inside = given / "checkpoints" / "last.ckpt"
    checkpoint = recover(inside if (given / "config.yaml").is_file() else given)
    if not checkpoint.exists():
        raise UserError(f"{checkpoint}: no such file or folder: give a run folder or its checkpoints/last.ckpt")
    if output.exists() and not cfg.overwrite:
        raise UserError(f"{output}: exists already: choose another output, or set overwrite=true", page="files")
    if output.is_file():
        raise UserError(f"{output} is a file: the output is a folder")
    config = checkpoint.parents[1] / "config.yaml" if cfg.config is None else Path(cfg.config).expanduser()
    network = network_of(config)
    fill(network, tensors_of(checkpoint), checkpoint)
    network.save_pretrained(output)
    weights = sum(p.numel() for p in network.parameters())
    answer(output=output, weights=weights)
    Console().print(
        f"model of {weights:,} weights\nwritten:  {output}\nuse:      cellfm_torch.load_model('{output}')",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return 0


def network_of(config: Path) -> Any:
    """Return the network of a run's configuration, without memory for its weights.

    Raises
    ------
    UserError
        If there is none, or it builds what is not ours.
    """
    import torch
    from hydra.utils import instantiate

    from cellfm_torch.commands.run_folder import read_config

    if not config.is_file():
        raise UserError(f"{config}: no such file: the checkpoint is in no run folder; give config=RUN/config.yaml")
    try:
        model = dict(read_config(config)["model"])
    except Exception as problem:  # whatever the damaged text makes YAML or OmegaConf raise
        raise UserError(f"{config} is not the config.yaml of a run: {shortened(problem, longest=150)}") from None
    for target in _targets(model):
        if not target.startswith(OURS):
            raise UserError(f"{config} builds {target}, which is no part of cellfm_torch")
    with torch.device("meta"):
        return instantiate(model)


def _targets(node: Any) -> list[str]:
    """List the names of all that a configuration would build."""
    if isinstance(node, list):
        return [name for child in node for name in _targets(child)]
    if not isinstance(node, dict):
        return []
    own = [str(node["_target_"])] if "_target_" in node else []
    return own + [name for child in node.values() for name in _targets(child)]


def tensors_of(checkpoint: Path) -> dict[str, Any]:
    """Return the tensors of the network in a checkpoint of one file or many, by their names in the network.

    Raises
    ------
    UserError
        If it is damaged, or holds none.
    """
    import torch

    from cellfm_torch.distributed.checkpoints import read_tensors
    from cellfm_torch.distributed.sound import damage
    from cellfm_torch.files import before

    if problem := damage(checkpoint):
        older = before(checkpoint)
        instead = f"; the one before it: checkpoint={older}" if older.exists() else ""
        raise UserError(f"{checkpoint} is not a checkpoint that can be read ({problem}){instead}")
    if checkpoint.is_dir():
        tensors = read_tensors(checkpoint, f"state_dict.{NETWORK}")
    else:
        found = torch.load(checkpoint, weights_only=True, map_location="cpu", mmap=True)
        state = found.get("state_dict") if isinstance(found, dict) else None
        named = state.items() if isinstance(state, dict) else ()
        tensors = {name.removeprefix(NETWORK): x for name, x in named if str(name).startswith(NETWORK)}
    if not tensors:
        raise UserError(f"{checkpoint} holds no network of ours: give a checkpoint that cellfm train wrote")
    return tensors


def fill(network: Any, tensors: dict[str, Any], checkpoint: Path) -> None:
    """Put tensors in their places in a network.

    Raises
    ------
    UserError
        If one is missing, unknown or of another shape.
    """
    try:
        network.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as problem:
        first = str(problem).splitlines()[1].strip()
        raise UserError(f"{checkpoint} is of another model than its config.yaml says: {first}") from problem


def main(overrides: Sequence[str] | None = None) -> int:
    """Compose conf/export.yaml with overrides (default: the command line's) and export."""
    return hydra_app.run(export, config="export", overrides=sys.argv[1:] if overrides is None else overrides)


if __name__ == "__main__":
    sys.exit(main())
