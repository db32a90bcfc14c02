"""Every YAML of conf/ composes, and what it describes can be built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from cellfm_torch import CellFM, CellFMConfig, paths
from cellfm_torch.commands import hydra_app

FILES = sorted(path.relative_to(paths.CONF).with_suffix("") for path in paths.CONF.rglob("*.yaml"))
GROUPS = sorted(path for path in FILES if len(path.parts) == 2)


def test_all_files_are_seen() -> None:
    # Update when a file is added: a walk that finds fewer tests less than it seems to.
    assert len(FILES) == 47


def composed(*overrides: str) -> DictConfig:
    hydra_app.register_resolvers()
    with initialize_config_dir(str(paths.CONF), version_base="1.3"):
        return compose("train", overrides=list(overrides))


@pytest.mark.parametrize("file", GROUPS, ids=str)
def test_composes_and_builds(file: Path, small_cells: Path, tmp_path: Path) -> None:
    group, name = file.parts
    folder = tmp_path / "model"
    CellFM(CellFMConfig(num_layers=1, dim=32, num_heads=1, num_genes=3), genes=["A", "B", "C"]).save_pretrained(folder)
    extra = {"pretrained": [f"model.folder={folder}"]}.get(name, [])
    choice = f"{'+' if group in ('experiment', 'cluster') else ''}{group}={name}"
    cfg = composed(choice, f"data.path={small_cells}", f"run_dir={tmp_path / 'run'}", *extra)
    assert not OmegaConf.missing_keys(cfg)
    build(cfg)


def build(cfg: DictConfig) -> dict[str, Any]:
    """Instantiate every node as the command does; networks without memory for their weights where they are large."""
    large = cfg.model.get("config", {}).get("name") in ("80m", "800m", "scfoundation")
    with torch.device("meta" if large else "cpu"):
        network = instantiate(cfg.model)
    built = {
        "network": network,
        "data": instantiate(cfg.data, _partial_=True)(input_spec=network.input_spec),
        "task": instantiate(cfg.task, _partial_=True)(network, recipe=instantiate(cfg.optim)),
        "callbacks": list(instantiate(cfg.callbacks).values()),
        "logger": list(instantiate(cfg.logger).values()),
    }
    built["trainer"] = instantiate(cfg.trainer, callbacks=built["callbacks"], logger=built["logger"])
    return built


def test_published_recipe_is_the_default_of_the_published_sizes() -> None:
    for name, layers, genes, depth in (("pretrain_80m", 2, 27_855, True), ("pretrain_800m", 40, 24_078, False)):
        cfg = composed(f"+experiment={name}", "data.path=x.h5ad")
        with torch.device("meta"):
            network = instantiate(cfg.model)
        config = network.config
        assert (config.num_layers, config.num_genes, config.read_depth) == (layers, genes, depth)
        assert (config.dim, config.num_heads, config.max_genes) == (1536, 48, 2048)
        recipe = cfg.optim
        assert recipe.optimizer._target_ == "cellfm_torch.optim.MindSporeAdam"
        assert (recipe.lr, recipe.start_lr, recipe.min_lr) == (1e-6, 1e-7, 5e-7)
        assert (recipe.betas, recipe.eps, recipe.weight_decay) == ([0.9, 0.95], 1e-8, 1e-5)
        assert (recipe.clip_norm, recipe.clip_per_tensor) == (1.0, True)
        assert (cfg.data.min_genes, cfg.data.max_genes) == (200, 2048)
        assert (cfg.data.mask_fraction, cfg.data.hidden_share) == (0.2, 0.8)
        assert cfg.trainer.max_epochs == 2
        assert cfg.trainer.precision == ("16-mixed" if torch.cuda.is_available() else "32-true")


@pytest.mark.parametrize(
    ("cuda", "native", "overrides", "expected"),
    [
        (False, False, [], "32-true"),
        (True, True, [], "bf16-mixed"),
        (True, False, [], "16-mixed"),
        (True, True, ["trainer.accelerator=cpu"], "32-true"),
        (True, True, ["trainer.accelerator=gpu", "+experiment=pretrain_800m", "data.path=x"], "16-mixed"),
        (False, False, ["trainer.precision=bf16-true"], "bf16-true"),  # what is asked for by name is done
        # Weights that are sharded are not trained with float16's loss scaling.
        (True, True, ["trainer=fsdp", "+experiment=pretrain_80m", "data.path=x"], "bf16-mixed"),
        (True, True, ["trainer=hybrid", "+experiment=pretrain_800m", "data.path=x"], "bf16-mixed"),
        (True, False, ["trainer=fsdp"], "bf16-mixed"),
        (False, False, ["trainer=fsdp", "+experiment=pretrain_80m", "data.path=x"], "32-true"),
        (True, True, ["trainer=ddp", "+experiment=pretrain_80m", "data.path=x"], "16-mixed"),
    ],
)
def test_half_precision_where_the_device_gains(
    cuda: bool, native: bool, overrides: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native)
    assert composed(*overrides).trainer.precision == expected


@pytest.mark.parametrize(("model", "budget"), [("tiny", 6144), ("scfoundation-tiny", 8192), ("scfoundation", 8192)])
def test_the_main_job_fits_either_backbone(model: str, budget: int) -> None:
    """The longest of the bundled cells fits twice, unexpressed targets included."""
    cfg = composed("+experiment=pretrain", f"model={model}")
    assert cfg.data.token_budget == budget
    with torch.device("meta"):
        spec = instantiate(cfg.model).input_spec
    data = instantiate(cfg.data, _partial_=True)(input_spec=spec)
    assert budget / 2 < data.least_token_budget <= budget
    assert composed("+experiment=pretrain", f"model={model}", "data.token_budget=9000").data.token_budget == 9000


def test_switches_reach_the_network() -> None:
    cfg = composed("task.zeros=true", "task.read_depth=true")
    spec = build(cfg)["network"].input_spec
    assert spec.read_depth and not spec.expressed_only
