"""scFoundation's models.ckpt: three sets of weights in one file of torch.save, read without running anything of it."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cellfm_torch.errors import UserError, nearest
from cellfm_torch.files import check_stored, refused_class
from cellfm_torch.model import ScFoundationConfig

from .options import PARTS

MODEL = "mae_autobin"
# What else the published code could be configured to; it would be another network with tensors of the same names.
FIXED = {("encoder", "module_type"): "transformer", ("encoder", "norm_first"): False}
FIXED |= {("decoder", "module_type"): "performer"}


@dataclass(frozen=True)
class Part:
    """One of the sets of weights: its sizes as its own configuration gives them, and tensors by official name."""

    config: ScFoundationConfig
    tensors: dict[str, Tensor]


def read_part(path: Path, part: str) -> Part:
    """Read one set of weights.

    Parameters
    ----------
    path
        models.ckpt.
    part
        "cell", "gene" or "rde".

    Raises
    ------
    UserError
        If the file is damaged, needs more than tensors and plain values to be read, or lacks the part.
    """
    content = _read(path)
    parts = [name for name in content if isinstance(content[name], dict)] if isinstance(content, dict) else []
    if not set(parts) & set(PARTS):
        raise UserError(f"{path}: is a file of torch.save, but holds none of scFoundation's parts {', '.join(PARTS)}")
    if part not in parts:
        raise UserError(f"{path}: has no part '{part}'{nearest(part, parts)}; it has {', '.join(parts)}")
    found = content[part]
    for name in ("config", "state_dict"):
        if not isinstance(found.get(name), Mapping):
            raise UserError(f"{path}: part '{part}' has no {name}: it is not laid out as scFoundation's models.ckpt")
    tensors = dict(found["state_dict"])
    for name, x in tensors.items():
        if not isinstance(name, str) or not isinstance(x, Tensor):
            raise UserError(f"{path}: part '{part}' holds {str(name)[:100]!r}, which is no tensor")
    return Part(_config(found["config"], where=f"{path}: part '{part}'"), tensors)


def _read(path: Path) -> Any:
    try:
        mapped = zipfile.is_zipfile(path)  # parts that are not asked for are then never read
        if mapped:
            check_stored(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except UserError:
        raise
    except OSError as problem:
        raise UserError(f"{path}: cannot be read ({problem.strerror or problem})") from problem
    except pickle.UnpicklingError as problem:
        wanted = refused_class(problem)
        if wanted is None:
            raise UserError(f"{path}: is damaged; copy or download it again") from problem
        raise UserError(
            f"{path}: holds more than tensors and plain values ({wanted}), and would run code when read; it was not "
            "read: save its tensors and configuration anew, with torch.save, where you trust it"
        ) from problem
    except Exception as problem:  # whatever type the damaged part makes torch raise
        reason = str(problem).strip().partition("\n")[0][:200]
        raise UserError(f"{path}: is damaged ({reason}); copy or download it again") from problem


def _config(given: Mapping[str, Any], *, where: str) -> ScFoundationConfig:
    """Turn the published configuration into ours; it comes in groups, or with their fields side by side."""
    try:
        fields: dict[str, Any] = dict(given)
        if "model_config" in given:
            fields |= dict(given["model_config"][given["model"]])
        encoder, decoder = fields["encoder"], fields["decoder"]
        named = {("", "model"): MODEL} | FIXED
        for (group, name), wanted in named.items():
            value = (fields[group] if group else fields).get(name, wanted)
            if value != wanted:
                raise UserError(f"{where} has {group}.{name}={value}: only {wanted} is known".replace(" .", " "))
        return ScFoundationConfig(
            num_genes=int(fields["seq_len"]) - 2,
            encoder_layers=encoder["depth"],
            encoder_dim=encoder["hidden_dim"],
            encoder_heads=encoder["heads"],
            decoder_layers=decoder["depth"],
            decoder_dim=decoder["hidden_dim"],
            decoder_heads=decoder["heads"],
            decoder_head_dim=decoder["dim_head"],
            num_bins=fields["bin_num"],
            bin_alpha=fields["bin_alpha"],
        )
    except UserError:
        raise
    except KeyError as problem:
        raise UserError(f"{where}: its configuration lacks {problem}") from problem
    except (TypeError, ValueError, OverflowError, AttributeError) as problem:
        raise UserError(f"{where}: its configuration cannot be used ({problem})") from problem
