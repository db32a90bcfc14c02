"""Training, files of cells and model folders."""

from __future__ import annotations

from cellfm_torch.verb import Group, Option, Verb
from cellfm_torch.verbs import common

STORE_VERBS = {
    "info": Verb(
        "cellfm_torch.commands.store_info",
        "what is in a prepared store, file by file",
        None,
        "cellfm store info cells.store",
    ),
    "verify": Verb(
        "cellfm_torch.commands.store_verify",
        "read all of a prepared store, compare with its checksums",
        None,
        "cellfm store verify cells.store",
    ),
}

VERBS: dict[str, Verb | Group] = {
    "train": Verb(
        "cellfm_torch.train",
        "pretrain or fine-tune a model",
        (
            Option("--experiment", "+experiment={}", "what to run: pretrain, pretrain_80m, pretrain_800m", "pretrain"),
            Option("--data", "data.path={}", "file of cells, glob, manifest or store (default: the bundled PBMC3k)"),
            Option("--model", "model={}", "tiny, 80m, 800m, scfoundation-tiny, scfoundation or pretrained"),
            Option("--run-dir", "run_dir={}", "folder of the run (default: runs/EXPERIMENT)"),
            Option("--steps", "trainer.max_steps={}", "optimiser steps"),
            Option("--strategy", "trainer={}", "single (the default), ddp, fsdp or hybrid, see conf/trainer"),
            Option("--lr", "optim.lr={}", "highest learning rate"),
            common.SEED,
            common.LAYER,
            common.TRAINER_ACCELERATOR,
            Option("--resume", "resume=true", "go on where the run in the folder stopped"),
        ),
        "cellfm train --data 'cells/*.h5ad' --run-dir runs/mine data.mask_fraction=0.3",
    ),
    "prepare": Verb(
        "cellfm_torch.commands.prepare",
        "files of cells -> a prepared store, fastest to train on",
        (
            Option("--output", "output={}", "folder of the store"),
            Option("--processes", "processes={}", "files read at the same time (default: one per core)"),
            common.LAYER,
            Option("--min-genes", "data.min_genes={}", "cells expressing fewer genes are left out (default: 10)"),
        ),
        "cellfm prepare 'cells/*.h5ad' --output cells.store",
        words=("sources", "SOURCE"),
        about="Files of cells -> a prepared store, the fastest to train on; more files may be added later",
    ),
    "store": Group("look at a prepared store, or check it", STORE_VERBS),
    "convert": Verb(
        "cellfm_torch.convert.command",
        "published checkpoint -> model folder",
        None,
        "cellfm convert CellFM_80M_weight.ckpt",
    ),
    "export": Verb(
        "cellfm_torch.commands.export",
        "checkpoint of a training run -> model folder",
        (
            Option("--output", "output={}", "model folder to write"),
            Option("--config", "config={}", "config.yaml of the run, for a checkpoint outside of its run folder"),
            common.OVERWRITE,
        ),
        "cellfm export runs/mine --output models/mine",
        words=("checkpoint", "CHECKPOINT"),
        about="Checkpoint of a training run, of one file or sharded over processes -> model folder",
    ),
}
