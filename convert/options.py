"""Options of the converters, apart from what converts: help must not wait for torch."""

from __future__ import annotations

import argparse
from pathlib import Path

from cellfm_torch.command_line import OneLineParser

DTYPES = ("float16", "bfloat16", "float32")
MODES = ("AES-GCM", "AES-CBC", "SM4-CBC")
"""Ciphers of MindSpore's encrypted checkpoints."""

PYTHON = "CELLFM_MINDSPORE_PYTHON"
"""Environment variable with an interpreter that has MindSpore."""

PARTS = {
    "cell": "cell embeddings",
    "gene": "gene embeddings and expression",
    "rde": "cell embeddings for read-depth enhancement",
}
"""Weights in scFoundation's models.ckpt."""


def _parser(program: str, description: str, example: str, checkpoint: str) -> OneLineParser:
    made = OneLineParser(
        prog=program, description=description, epilog=f"example: {program} {example}", allow_abbrev=False
    )
    add = made.add_argument
    add("checkpoint", type=Path, help=checkpoint)
    add("--output", type=Path, metavar="FOLDER", help="folder to write (default: beside the checkpoint)")
    add("--dtype", choices=DTYPES, help="of the written weights (default: as in the checkpoint)")
    add("--genes", type=Path, metavar="FILE", help="one gene symbol a line, for a vocabulary of your own")
    add("--skip-validation", action="store_true", help="do not read the result back and compare")
    return made


def of_mindspore(program: str) -> argparse.ArgumentParser:
    """Return the options for CellFM's checkpoints."""
    made = _parser(
        program,
        "Official MindSpore CellFM checkpoint -> model folder for CellFM.from_pretrained.",
        "CellFM_80M_weight.ckpt",
        "a .ckpt file, MindSpore's .safetensors, or a folder of rank_N copies",
    )
    add = made.add_argument
    add("--num-heads", type=int, metavar="H", help="retention heads (default: width / 32)")
    add("--merge-lora", action="store_true", help="add low-rank adapters to the weights (default: kept apart)")
    add("--training-state", action="store_true", help="also write training.ckpt: Adam's moments, step, learning rate")
    add("--backend", choices=("own", "mindspore"), default="own", help="who reads the file; mindspore opens encrypted")
    add("--key", type=Path, metavar="FILE", help=f"file with the key, for --backend mindspore; {PYTHON} names a python")
    add("--key-mode", choices=MODES, default=MODES[0], help="cipher of an encrypted file (default: AES-GCM)")
    return made


def of_scfoundation(program: str) -> argparse.ArgumentParser:
    """Return the options for scFoundation's weights."""
    made = _parser(
        program,
        "scFoundation's models.ckpt -> model folder for load_model.",
        "models.ckpt --part gene",
        "models.ckpt as published: parts cell, gene and rde",
    )
    parts = "; ".join(f"{name}: {use}" for name, use in PARTS.items())
    made.add_argument("--part", choices=tuple(PARTS), default="cell", help=f"which weights (default: cell). {parts}")
    return made
