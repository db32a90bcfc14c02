"""What perturbed genes and compounds do to cells, and how cells respond to drugs."""

from __future__ import annotations

from cellfm_torch.verb import Group, Option, Verb
from cellfm_torch.verbs import common

PERTURB_VERBS = {
    "train": Verb(
        "cellfm_torch.commands.perturb_train",
        "learn what perturbed genes do",
        (
            common.MODEL,
            Option("--condition", "condition={}", "column of obs with GENE+ctrl, A+B, ctrl (default: found by name)"),
            Option("--method", "fit.method={}", "frozen (the head learns, the default), lora or full"),
            Option("--split", "split={}", "simulation (some genes unseen), none, or a .json or .csv file"),
            Option("--sets", "sets={}", ".gmt file, such as GO: genes of the same sets exchange messages"),
            common.seeds("0"),
            common.results("runs/perturb", "tables, page and predictor"),
            common.epochs(150),
            common.LAYER,
            common.TRAINER_ACCELERATOR,
            common.OVERWRITE,
        ),
        "cellfm perturb train norman.h5ad --model models/80m --sets go_bp.gmt --seeds 0,1,2",
        words=("cells", "[CELLS]"),
        about="Learn what perturbed genes do; held-out perturbations scored beside baselines",
    ),
    "predict": Verb(
        "cellfm_torch.commands.perturb_predict",
        "what perturbing genes would do to control cells -> h5ad",
        (
            Option("--genes", "gene_list={}", "what to perturb: KLF1, CEBPA+KLF1 for both at once, or a file"),
            Option("--cells", "cells={}", "file of control cells, or of those among others"),
            Option("--predictor", "predictor={}", "what perturb train wrote (default: runs/perturb/predictor)"),
            common.output("CELLS_perturbed.h5ad"),
            Option("--single-cells", "single_cells=true", "every control cell as it would be, of one condition"),
            Option("--layer", "data.layer={}", "matrix of raw counts (default: as the predictor learned from)"),
            common.ACCELERATOR,
            common.OVERWRITE,
        ),
        "cellfm perturb predict --genes KLF1 --cells ctrl.h5ad",
    ),
    "reverse": Verb(
        "cellfm_torch.commands.perturb_reverse",
        "which perturbation leads from one state to another",
        (
            Option("--by", "by={}", "column of obs with the state of each cell"),
            Option("--from", "start={}", "state of the cells that would be perturbed"),
            Option("--to", "target={}", "state that they should come to"),
            Option("--predictor", "predictor={}", "what perturb train wrote (default: runs/perturb/predictor)"),
            Option(
                "--candidates", "candidates={}", "A,B or a file with one a line (default: those perturbed in training)"
            ),
            Option("--pairs", "pairs=true", "all pairs of the candidates too"),
            Option("--output", "output={}", "table to write (default: runs/reverse.csv)"),
            Option("--layer", "data.layer={}", "matrix of raw counts (default: as the predictor learned from)"),
            common.ACCELERATOR,
            common.OVERWRITE,
        ),
        "cellfm perturb reverse cells.h5ad --by state --from naive --to activated",
        words=("cells", "CELLS"),
        about="Which perturbation leads from one state of cells to another: candidates, ranked",
    ),
}

CHEM_VERBS = {
    "train": Verb(
        "cellfm_torch.commands.chem_train",
        "learn where compounds move cells",
        (
            common.MODEL,
            Option("--drug", "drug={}", "column of obs with compounds (default: drug, compound, perturbation ...)"),
            Option("--dose", "dose={}", "column of obs with doses (default: dose or dose_value, where it is there)"),
            Option("--smiles", "smiles={}", "column of obs with SMILES, or a csv with columns drug,smiles; none: not"),
            Option("--by", "by={}", "column of obs with contexts, such as cell_line: controls are of the same"),
            Option("--control", "control={}", "value of the column of compounds that is control"),
            Option("--split", "split={}", "what is held out and scored: compound (the default), dose, context, none"),
            common.results("runs/chem", "predictor, tables and page"),
            common.epochs(4),
            common.seeds("0,1,2"),
            common.LAYER,
            common.ACCELERATOR,
            common.OVERWRITE,
        ),
        "cellfm chem train cells.h5ad --model models/80m --drug drug --dose dose --smiles smiles --split compound",
        words=("cells", "CELLS"),
        about="Where compounds move cells, learned; held-out ones scored beside baselines -> predictor, tables, page",
    ),
    "predict": Verb(
        "cellfm_torch.commands.chem_predict",
        "control cells as they would be under a compound -> h5ad",
        (
            Option("--predictor", "predictor={}", "what chem train wrote (default: runs/chem/predictor)"),
            Option("--cells", "cells={}", "file of control cells, or of those among others"),
            Option("--drug", "drug={}", "compound, by its name in training, or any name with --smiles"),
            Option("--smiles", "smiles={}", "SMILES of a compound that was not in training"),
            Option("--dose", "dose={}", "in the unit of the training cells"),
            common.output("CELLS_predicted.h5ad"),
            common.ACCELERATOR,
            common.OVERWRITE,
        ),
        "cellfm chem predict --cells ctrl.h5ad --drug vorinostat --dose 1.0",
        about="Control cells as they would be under a compound -> h5ad with predicted embeddings and marker genes",
    ),
}

DRUG_VERBS = {
    "bulk": Verb(
        "cellfm_torch.commands.drug_bulk",
        "IC50 of cell lines to drugs",
        (
            common.MODEL,
            Option("--ic50", "ic50={}", "ln(uM): drugs by lines, or a table with columns drug, line, ln_ic50"),
            Option("--smiles", "smiles={}", "csv with columns drug,smiles, or PubChem id and SMILES without a heading"),
            Option("--drugs", "drugs={}", "table of drugs with drug_id, Name, PubCHEM: joins IC50 and SMILES"),
            Option(
                "--annotation", "annotation={}", "table of lines with their names (depMapID, COSMIC_ID) and tissues"
            ),
            Option("--split", "split={}", "what is new in a test: pair (the default), line, drug, tissue"),
            common.results("runs/drug_bulk", "tables and page"),
            common.epochs(60),
            common.seeds("0,1,2"),
            common.ACCELERATOR,
            common.OVERWRITE,
        ),
        "cellfm drug bulk lines.csv --ic50 GDSC_IC50.csv --smiles smiles.csv --model models/80m --split line",
        words=("expression", "LINES"),
        about="IC50 of cell lines to drugs; held-out pairs, lines, drugs or tissues scored beside baselines",
    ),
    "cells": Verb(
        "cellfm_torch.commands.drug_cells",
        "cells that are sensitive to a drug, by cell lines",
        (
            common.MODEL,
            Option("--lines", "expression={}", "expression of cell lines: csv, tsv, gct, h5ad"),
            Option("--ic50", "ic50={}", "ln(uM): drugs by lines, or a table with columns drug, line, ln_ic50"),
            Option("--drug", "drug={}", "which drug, as the IC50 table or the table of drugs names it"),
            Option("--drugs", "drugs={}", "table of drugs with drug_id, Name, PubCHEM"),
            Option("--annotation", "annotation={}", "table of lines with their names (depMapID, COSMIC_ID)"),
            Option("--thresholds", "thresholds={}", "ln(uM) below which lines are sensitive, by drug"),
            Option(
                "--method",
                "method={}",
                "how lines are brought to the cells: coral (the default), transport, adversarial, scale or none",
            ),
            Option("--response", "response={}", "column of obs with the truth, for the scores"),
            common.results("runs/drug_cells", "cells, tables and page"),
            common.SEED,
            common.LAYER,
            common.ACCELERATOR,
            common.OVERWRITE,
        ),
        "cellfm drug cells c.h5ad --lines lines.csv --ic50 GDSC_IC50.csv --drug 134 --model models/80m",
        words=("cells", "CELLS"),
        about="Cells that are sensitive to a drug, by what cell lines respond: adapted without labels of cells -> h5ad",
    ),
}

VERBS: dict[str, Verb | Group] = {
    "perturb": Group("what perturbed genes do to cells: learn it, predict it, search it", PERTURB_VERBS),
    "chem": Group("where compounds move cells", CHEM_VERBS),
    "drug": Group("how cell lines and single cells respond to drugs", DRUG_VERBS),
}
