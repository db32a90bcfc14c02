"""The table of commands: what ``cellfm`` can do, and which module does it.

Options are what a user usually sets, each an alias of a configuration key. A verb is one row here, a configuration of
the same name in conf/, and a module with ``main(overrides)``.
"""

from __future__ import annotations

from cellfm_torch.verb import Group, Option, Verb

GENE_VERBS = {
    "embed": Verb(
        "cellfm_torch.commands.genes_embed",
        "embeddings of genes: as the model has them, and averaged in the context of cells -> h5ad",
        (
            Option("--model", "model_folder={}", "model folder"),
            Option("--by", "by={}", "column of obs: an embedding for each group of cells"),
            Option("--output", "output={}", "h5ad to write, its observations genes (default: CELLS_genes.h5ad)"),
            Option("--parquet", "parquet={}", "table to write beside it"),
            Option("--layer", "data.layer={}", "matrix of raw counts: raw, or the name of a layer (default: X)"),
            Option("--overwrite", "overwrite=true", "replace files that exist"),
        ),
        "cellfm genes embed cells.h5ad --by cell_type --model models/80m",
        words=("cells", "[CELLS]"),
    ),
    "function": Verb(
        "cellfm_torch.commands.genes_function",
        "what embeddings say of gene function: labels or terms predicted for held-out genes, beside baselines",
        (
            Option("--labels", "labels={}", "csv of labelled genes (gene, label, task), or a .gmt of gene sets"),
            Option("--model", "model_folder={}", "model folder"),
            Option("--embeddings", "embeddings={}", "h5ad of cellfm genes embed (default: the model's static ones)"),
            Option("--key", "keys={}", "which of its obsm (default: X_static); several: a,b"),
            Option("--cells", "cells={}", "cells for the baselines of expression (default: the bundled PBMC3k)"),
            Option("--families", "families={}", "csv with columns gene,family: families are kept together"),
            Option("--results", "results={}", "folder of tables (default: runs/genes_function)"),
            Option("--overwrite", "overwrite=true", "replace results that exist"),
        ),
        "cellfm genes function --model models/80m --labels dosage.csv",
    ),
    "relations": Verb(
        "cellfm_torch.commands.genes_relations",
        "which genes gather from which: retention maps averaged over cells -> maps, edges, a graph",
        (
            Option("--model", "model_folder={}", "folder of a CellFM"),
            Option("--by", "by={}", "column of obs: maps for each group of cells"),
            Option("--genes", "gene_list={}", "file of genes, one a line, or A,B (default: the most variable)"),
            Option("--sets", "sets={}", ".gmt file: score against genes that share a set"),
            Option("--results", "results={}", "folder (default: runs/genes_relations)"),
            Option("--overwrite", "overwrite=true", "replace results that exist"),
        ),
        "cellfm genes relations cells.h5ad --by cell_type --model models/80m --sets go_bp.gmt",
        words=("cells", "CELLS"),
    ),
    "specific": Verb(
        "cellfm_torch.commands.genes_specific",
        "genes that cls gathers from in some cell types more than in others, lncRNA in particular",
        (
            Option("--model", "model_folder={}", "folder of a CellFM"),
            Option("--by", "by={}", "column of obs with the group of each cell"),
            Option("--biotype", "biotype={}", "kind of gene that is shown, such as lncRNA; the table has all"),
            Option("--results", "results={}", "folder (default: runs/genes_specific)"),
            Option("--overwrite", "overwrite=true", "replace results that exist"),
        ),
        "cellfm genes specific cells.h5ad --by cell_type --model models/80m --biotype lncRNA",
        words=("cells", "CELLS"),
    ),
    "modules": Verb(
        "cellfm_torch.commands.genes_modules",
        "modules of genes that cells use alike: clusters of contextual embeddings, enriched sets, activity",
        (
            Option("--model", "model_folder={}", "model folder, for a file of cells"),
            Option("--cells", "cells={}", "cells for activity, where embeddings of genes were given"),
            Option("--sets", "sets={}", ".gmt file that modules are tested against"),
            Option("--by", "by={}", "column of the cells' obs: activity by group"),
            Option("--key", "key={}", "obsm that is clustered (default: X_context)"),
            Option("--results", "results={}", "folder of tables (default: runs/genes_modules)"),
            Option("--overwrite", "overwrite=true", "replace results that exist"),
        ),
        "cellfm genes modules cells.h5ad --model models/80m --sets GO.gmt --by cell_type",
        words=("given", "GENES_OR_CELLS"),
    ),
    "whatif": Verb(
        "cellfm_torch.commands.genes_whatif",
        "take genes out of cells, or set them: how far the embedding moves, with a permutation test",
        (
            Option("--model", "model_folder={}", "model folder"),
            Option("--genes", "gene_list={}", "file of genes, one a line, or A,B (default: the most variable)"),
            Option("--set-to", "set_to={}", "log1p(CP10K) that the gene gets (default: it is taken out)"),
            Option("--by", "by={}", "column of obs with groups of cells"),
            Option("--results", "results={}", "folder (default: runs/genes_whatif)"),
            Option("--overwrite", "overwrite=true", "replace results that exist"),
        ),
        "cellfm genes whatif cells.h5ad --by cell_type --model models/80m --genes tfs.txt",
        words=("cells", "CELLS"),
    ),
    "build": Verb(
        "cellfm_torch.commands.genes_build",
        "compile HGNC's complete set into a table of gene names",
        None,
        "cellfm genes build hgnc_complete_set.txt",
    ),
}

CHEM_VERBS = {
    "train": Verb(
        "cellfm_torch.commands.chem_train",
        "learn where compounds move cells; held-out conditions scored beside baselines -> predictor, tables, a page",
        (
            Option("--model", "model_folder={}", "model folder"),
            Option("--drug", "drug={}", "column of obs with compounds (default: drug, compound, perturbation ...)"),
            Option("--dose", "dose={}", "column of obs with doses (default: dose or dose_value, where it is there)"),
            Option("--smiles", "smiles={}", "column of obs with SMILES, or a csv with columns drug,smiles; none: not"),
            Option("--by", "by={}", "column of obs with contexts, such as cell_line: controls are of the same"),
            Option("--control", "control={}", "value of the column of compounds that is control"),
            Option("--split", "split={}", "what is held out and scored: compound (the default), dose, context, none"),
            Option("--results", "results={}", "folder (default: runs/chem)"),
            Option("--overwrite", "overwrite=true", "replace results that exist"),
        ),
        "cellfm chem train cells.h5ad --model models/80m --drug drug --dose dose --smiles smiles --split compound",
        words=("cells", "CELLS"),
    ),
    "predict": Verb(
        "cellfm_torch.commands.chem_predict",
        "control cells as they would be under a compound -> h5ad with predicted embeddings and marker genes",
        (
            Option("--predictor", "predictor={}", "what train wrote (default: runs/chem/predictor)"),
            Option("--cells", "cells={}", "file of control cells; of a file with treated ones too, its control cells"),
            Option("--drug", "drug={}", "compound, by its name in training, or any name with --smiles"),
            Option("--smiles", "smiles={}", "SMILES of a compound that was not in training"),
            Option("--dose", "dose={}", "in the unit of the training cells"),
            Option("--output", "output={}", "h5ad to write (default: CELLS_predicted.h5ad in this folder)"),
            Option("--overwrite", "overwrite=true", "replace the output where it exists"),
        ),
        "cellfm chem predict --cells ctrl.h5ad --drug vorinostat --dose 1.0",
    ),
}

PERTURB_VERBS = {
    "train": Verb(
        "cellfm_torch.commands.perturb_train",
        "learn what perturbed genes do; held-out perturbations scored beside baselines",
        (
            Option("--model", "model_folder={}", "model folder"),
            Option("--condition", "condition={}", "column of obs with GENE+ctrl, A+B, ctrl (default: found by name)"),
            Option("--method", "fit.method={}", "frozen (the head learns, the default), lora or full"),
            Option("--split", "split={}", "simulation (some genes unseen), none, or a .json or .csv file"),
            Option("--sets", "sets={}", ".gmt file, such as GO: genes of the same sets exchange messages"),
            Option("--seeds", "seeds={}", "one split and training each, such as [0,1,2] (default: [0])"),
            Option("--results", "results={}", "folder of tables, page and predictor (default: runs/perturb)"),
            Option("--overwrite", "overwrite=true", "replace results that exist"),
        ),
        "cellfm perturb train norman.h5ad --model models/80m --sets go_bp.gmt --seeds [0,1,2]",
        words=("cells", "[CELLS]"),
    ),
    "predict": Verb(
        "cellfm_torch.commands.perturb_predict",
        "what perturbing genes would do to control cells -> h5ad",
        (
            Option("--genes", "gene_list={}", "what to perturb: KLF1, CEBPA+KLF1 for both at once, or a file"),
            Option("--cells", "cells={}", "file of control cells"),
            Option("--predictor", "predictor={}", "what train wrote (default: runs/perturb/predictor)"),
            Option("--output", "output={}", "h5ad to write (default: CELLS_perturbed.h5ad in this folder)"),
            Option("--single-cells", "single_cells=true", "every control cell as it would be, of one condition"),
            Option("--overwrite", "overwrite=true", "replace the output where it exists"),
        ),
        "cellfm perturb predict --genes KLF1 --cells ctrl.h5ad",
    ),
    "reverse": Verb(
        "cellfm_torch.commands.perturb_reverse",
        "which perturbation leads from one state of cells to another: candidates, ranked",
        (
            Option("--by", "by={}", "column of obs with the state of each cell"),
            Option("--from", "start={}", "state of the cells that would be perturbed"),
            Option("--to", "target={}", "state that they should come to"),
            Option("--predictor", "predictor={}", "what train wrote (default: runs/perturb/predictor)"),
            Option("--candidates", "candidates={}", "genes, A,B or a file (default: those perturbed in training)"),
            Option("--pairs", "pairs=true", "all pairs of the candidates too"),
            Option("--output", "output={}", "table to write (default: runs/reverse.csv)"),
            Option("--overwrite", "overwrite=true", "replace the output where it exists"),
        ),
        "cellfm perturb reverse cells.h5ad --by state --from naive --to activated",
        words=("cells", "CELLS"),
    ),
}

DRUG_VERBS = {
    "bulk": Verb(
        "cellfm_torch.commands.drug_bulk",
        "IC50 of cell lines to drugs; held-out pairs, lines, drugs or tissues scored beside baselines",
        (
            Option("--model", "model_folder={}", "model folder"),
            Option("--ic50", "ic50={}", "ln(uM): drugs by lines, or a table with columns drug, line, ln_ic50"),
            Option("--smiles", "smiles={}", "csv with columns drug,smiles, or PubChem id and SMILES without a heading"),
            Option("--drugs", "drugs={}", "table of drugs with drug_id, Name, PubCHEM: joins IC50 and SMILES"),
            Option(
                "--annotation", "annotation={}", "table of lines with their names (depMapID, COSMIC_ID) and tissues"
            ),
            Option("--split", "split={}", "what is new in a test: pair (the default), line, drug, tissue"),
            Option("--results", "results={}", "folder of tables and page (default: runs/drug_bulk)"),
            Option("--overwrite", "overwrite=true", "replace results that exist"),
        ),
        "cellfm drug bulk lines.csv --ic50 GDSC_IC50.csv --smiles smiles.csv --model models/80m --split line",
        words=("expression", "LINES"),
    ),
    "cells": Verb(
        "cellfm_torch.commands.drug_cells",
        "cells that are sensitive to a drug, by what cell lines respond: adapted without labels of cells -> h5ad",
        (
            Option("--model", "model_folder={}", "model folder"),
            Option("--lines", "expression={}", "expression of cell lines: csv, tsv, gct, h5ad"),
            Option("--ic50", "ic50={}", "ln(uM): drugs by lines, or a table with columns drug, line, ln_ic50"),
            Option("--drug", "drug={}", "which drug, as the IC50 table or the table of drugs names it"),
            Option("--drugs", "drugs={}", "table of drugs with drug_id, Name, PubCHEM"),
            Option("--annotation", "annotation={}", "table of lines with their names (depMapID, COSMIC_ID)"),
            Option("--thresholds", "thresholds={}", "ln(uM) below which lines are sensitive, by drug"),
            Option(
                "--method",
                "method={}",
                "how lines are brought to the cells: coral (the default), transport, scale, none",
            ),
            Option("--response", "response={}", "column of obs with the truth, for the scores"),
            Option("--results", "results={}", "folder (default: runs/drug_cells)"),
            Option("--overwrite", "overwrite=true", "replace results that exist"),
        ),
        "cellfm drug cells c.h5ad --lines lines.csv --ic50 GDSC_IC50.csv --drug 134 --model models/80m",
        words=("cells", "CELLS"),
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
            Option("--seed", "seed={}", "of weights, split, order and masks"),
            Option("--resume", "resume=true", "go on where the run in the folder stopped"),
        ),
        "cellfm train --data 'cells/*.h5ad' --run-dir runs/mine data.mask_fraction=0.3",
    ),
    "embed": Verb(
        "cellfm_torch.commands.embed",
        "embeddings of all cells of a file -> h5ad",
        (
            Option("--model", "model_folder={}", "model folder"),
            Option("--output", "output={}", "h5ad file to write (default: CELLS_cellfm.h5ad beside the cells)"),
            Option("--layer", "data.layer={}", "matrix of raw counts: raw, or the name of a layer (default: X)"),
            Option("--key", "key={}", "name in obsm (default: X_cellfm)"),
            Option("--int8", "int8=true", "8-bit integers: twice as fast on a CPU with VNNI, no longer exact"),
            Option("--devices", "devices={}", "processes or GPUs (default: 1)"),
            Option("--overwrite", "overwrite=true", "replace the output where it exists"),
        ),
        "cellfm embed cells.h5ad --model runs/mine/model",
        words=("cells", "CELLS"),
    ),
    "annotate": Verb(
        "cellfm_torch.commands.annotate",
        "cell types for cells, by a labelled reference; scores beside baselines where types are known",
        (
            Option("--reference", "reference={}", "file of labelled cells"),
            Option("--label", "label={}", "column of obs with their types (default: cell_type)"),
            Option("--query", "query={}", "file of cells to label"),
            Option("--query-label", "query_label={}", "column of obs with the query's types, to score against"),
            Option("--model", "model_folder={}", "model folder"),
            Option("--method", "method={}", "knn (zero-shot, the default), linear, frozen, lora or full"),
            Option("--output", "output={}", "labelled copy of the query (default: query.h5ad in the results)"),
            Option("--results", "results={}", "folder of tables (default: runs/annotate)"),
            Option("--labels-map", "labels_map={}", "csv with columns from,to that harmonises names of types"),
            Option("--split", "split={}", "folds of a cross-validation within the reference"),
            Option("--leave-out", "leave_out={}", "column of obs, such as batch: each of its values is left out once"),
            Option("--few-shot", "few_shot={}", "labelled cells per type to learn from; one number or several: 5,10"),
        ),
        "cellfm annotate --reference ref.h5ad --label cell_type --query q.h5ad --model models/80m seeds=[0,1,2]",
    ),
    "integrate": Verb(
        "cellfm_torch.commands.integrate",
        "integrate the batches of a file, zero-shot or fine-tuned, scored beside PCA, Harmony and scVI",
        (
            Option("--batch", "batch={}", "column of obs with the batch of each cell"),
            Option("--label", "label={}", "column of obs with cell types, for the scores"),
            Option("--model", "model_folder={}", "model folder"),
            Option("--method", "method={}", "zero-shot (nothing is trained, the default) or finetune"),
            Option("--output", "output={}", "h5ad to write (default: CELLS_integrated.h5ad in this folder)"),
            Option("--epochs", "trainer.max_epochs={}", "of fine-tuning, over the cells (default: 30)"),
        ),
        "cellfm integrate cells.h5ad --batch batch --label cell_type --model models/80m --method finetune",
        words=("cells", "CELLS"),
    ),
    "compare": Verb(
        "cellfm_torch.commands.compare",
        "cells of which a condition has more: neighbourhoods tested over donors, beside the same on PCA",
        (
            Option("--condition", "condition={}", "column of obs with the condition of each cell"),
            Option("--donor", "donor={}", "column of obs with the donor of each cell"),
            Option("--case", "case={}", "the condition asked about, of more than two"),
            Option("--control", "control={}", "the condition it is compared with"),
            Option("--label", "label={}", "column of obs with cell types (default: cellfm_label where it is there)"),
            Option("--model", "model_folder={}", "model folder (default: the embedding that the file has)"),
            Option("--output", "output={}", "h5ad to write (default: CELLS_compared.h5ad in this folder)"),
            Option("--fdr", "fdr={}", "false discovery rate of the hits (default: 0.1)"),
        ),
        "cellfm compare cells.h5ad --condition condition --donor donor --label cell_type --model models/80m",
        words=("cells", "CELLS"),
    ),
    "report": Verb(
        "cellfm_torch.commands.report",
        "one HTML page of annotated cells that needs no network: UMAP to hover, scores, genes, unknown cells",
        (
            Option("--output", "output={}", "page (default: CELLS_report.html in this folder)"),
            Option("--label", "label={}", "column of obs with given cell types, to compare with"),
            Option("--labels-map", "labels_map={}", "csv with columns from,to: given types by predicted names"),
            Option("--batch", "batch={}", "column of obs with batches"),
            Option("--prediction", "prediction={}", "column of obs with predicted types (default: cellfm_label)"),
        ),
        "cellfm report annotated.h5ad --label cell_type --output page.html",
        words=("cells", "RUN_OR_CELLS"),
    ),
    "prepare": Verb(
        "cellfm_torch.commands.prepare",
        "files of cells -> a prepared store, the fastest to train on; more files may be added later",
        (
            Option("--output", "output={}", "folder of the store"),
            Option("--processes", "processes={}", "files read at the same time (default: one per core)"),
            Option("--layer", "data.layer={}", "matrix of raw counts: raw, or the name of a layer (default: X)"),
            Option("--min-genes", "data.min_genes={}", "cells expressing fewer genes are left out (default: 10)"),
        ),
        "cellfm prepare 'cells/*.h5ad' --output cells.store",
        words=("sources", "SOURCE"),
    ),
    "store": Verb(
        "cellfm_torch.commands.store",
        "look at a prepared store: cellfm store info STORE; check it: cellfm store verify STORE",
        None,
        "cellfm store info cells.store",
    ),
    "genes": Group("what the model knows about genes; tables of gene names", GENE_VERBS),
    "chem": Group("where compounds move cells", CHEM_VERBS),
    "drug": Group("how cell lines and single cells respond to drugs", DRUG_VERBS),
    "perturb": Group("what perturbed genes do to cells: learn it, predict it, search it", PERTURB_VERBS),
    "enhance": Verb(
        "cellfm_torch.commands.enhance",
        "expression expected at another read depth -> a layer; scored by downsampling where asked for",
        (
            Option("--model", "model_folder={}", "model folder that reads depths"),
            Option("--target-depth", "target_depth={}", "counts of a cell, such as 10000, or a rule: f10, ten times"),
            Option("--output", "output={}", "h5ad to write (default: CELLS_enhanced.h5ad in this folder)"),
            Option("--genes", "gene_list={}", "measured (the default), all of the model's, A,B or a file"),
            Option("--downsample", "downsample={}", "shares of the counts to score with, such as [0.05,0.1]"),
            Option("--label", "label={}", "column of obs with cell types, for scores of clusters"),
            Option("--results", "results={}", "folder of scores (default: runs/enhance)"),
            Option("--overwrite", "overwrite=true", "replace output and results that exist"),
        ),
        "cellfm enhance cells.h5ad --model models/scfoundation-cell --target-depth 10000",
        words=("cells", "CELLS"),
    ),
    "convert": Verb(
        "cellfm_torch.convert.command",
        "published checkpoint (CellFM of MindSpore, scFoundation) -> model folder",
        None,
        "cellfm convert CellFM_80M_weight.ckpt",
    ),
    "export": Verb(
        "cellfm_torch.commands.export",
        "checkpoint of a training run, of one file or sharded over processes -> model folder",
        (
            Option("--output", "output={}", "model folder to write"),
            Option("--config", "config={}", "config.yaml of the run, for a checkpoint outside of its run folder"),
            Option("--overwrite", "overwrite=true", "replace the output where it exists"),
        ),
        "cellfm export runs/mine --output models/mine",
        words=("checkpoint", "CHECKPOINT"),
    ),
    "estimate": Verb(
        "cellfm_torch.commands.estimate",
        "memory, arithmetic and expected speed of a model",
        None,
        "cellfm estimate 800m --tokens 65536 --dtype bfloat16 --rate 600",
    ),
}


def verb_of(config: str) -> Verb | None:
    """Return the verb that has a configuration, by its name: ``"embed"``, ``"genes_embed"``."""
    name, _, second = config.partition("_")
    found = VERBS.get(name)
    if isinstance(found, Group):
        return found.verbs.get(second)
    return None if second else found
