"""Options that several verbs share: one name, one meaning, one line of help."""

from __future__ import annotations

from cellfm_torch.verb import Option

MODEL = Option("--model", "model_folder={}", "model folder: what train, convert or export wrote")
LAYER = Option("--layer", "data.layer={}", "matrix of raw counts: raw, or the name of a layer (default: X)")
SEED = Option("--seed", "seed={}", "of all that is drawn at random (default: 0)")
ACCELERATOR = Option("--accelerator", "accelerator={}", "auto (a GPU where there is one), cpu, cuda or mps")
TRAINER_ACCELERATOR = Option("--accelerator", "trainer.accelerator={}", ACCELERATOR.help)
OVERWRITE = Option("--overwrite", "overwrite=true", "replace output and results that exist")


def seeds(default: str) -> Option:
    """Return the option of verbs that do all they do once per seed."""
    return Option("--seeds", "seeds={}", f"one run each; tables give mean and sd (default: {default})")


def epochs(default: int) -> Option:
    """Return the option of verbs that train."""
    return Option("--epochs", "trainer.max_epochs={}", f"passes over what is learned from (default: {default})")


def results(folder: str, what: str = "tables and settings") -> Option:
    """Return the option of verbs that write a folder."""
    return Option("--results", "results={}", f"folder of {what} (default: {folder})")


def output(name: str, what: str = "h5ad") -> Option:
    """Return the option of verbs that write one file, by default into the current folder."""
    return Option("--output", "output={}", f"{what} to write (default: {name} in this folder)")
