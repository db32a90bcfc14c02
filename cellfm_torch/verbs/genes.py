"""What the model knows about genes."""

from __future__ import annotations

from cellfm_torch.verb import Group, Option, Verb
from cellfm_torch.verbs import common

GENE_VERBS = {
    "embed": Verb(
        "cellfm_torch.commands.genes_embed",
        "embeddings of genes -> h5ad",
        (
            common.MODEL,
            Option("--by", "by={}", "column of obs: an embedding for each group of cells"),
            common.output("CELLS_genes.h5ad", "h5ad of genes"),
            Option("--parquet", "parquet={}", "table to write beside it"),
            common.LAYER,
            common.SEED,
            common.ACCELERATOR,
            common.OVERWRITE,
        ),
        "cellfm genes embed cells.h5ad --by cell_type --model models/80m",
        words=("cells", "[CELLS]"),
        about="Embeddings of genes: as the model has them, and averaged in the context of cells -> h5ad",
    ),
    "function": Verb(
        "cellfm_torch.commands.genes_function",
        "what embeddings say of gene function",
        (
            Option("--labels", "labels={}", "csv of labelled genes (gene, label, task), or a .gmt of gene sets"),
            common.MODEL,
            Option("--embeddings", "embeddings={}", "h5ad of cellfm genes embed (default: the model's static ones)"),
            Option("--key", "keys={}", "which of its obsm (default: X_static); several: a,b"),
            Option("--cells", "cells={}", "cells for the baselines of expression (default: the bundled PBMC3k)"),
            Option("--families", "families={}", "csv with columns gene,family: families are kept together"),
            common.results("runs/genes_function", "tables and pictures"),
            common.seeds("0,1,2,3,4"),
            common.LAYER,
            common.ACCELERATOR,
            common.OVERWRITE,
        ),
        "cellfm genes function --model models/80m --labels dosage.csv",
        about="What embeddings say of gene function: labels or terms predicted for held-out genes, beside baselines",
    ),
    "relations": Verb(
        "cellfm_torch.commands.genes_relations",
        "which genes gather from which: maps, edges, a graph",
        (
            Option("--model", "model_folder={}", "model folder, of a CellFM"),
            Option("--by", "by={}", "column of obs: maps for each group of cells"),
            Option("--genes", "gene_list={}", "A,B or a file with one a line (default: the most variable)"),
            Option("--sets", "sets={}", ".gmt file: score against genes that share a set"),
            common.results("runs/genes_relations", "maps, edges and graph"),
            common.SEED,
            common.LAYER,
            common.ACCELERATOR,
            common.OVERWRITE,
        ),
        "cellfm genes relations cells.h5ad --by cell_type --model models/80m --sets go_bp.gmt",
        words=("cells", "CELLS"),
        about="Which genes gather from which: retention maps averaged over cells -> maps, edges, a graph",
    ),
    "specific": Verb(
        "cellfm_torch.commands.genes_specific",
        "genes that matter to some cell types more than to others",
        (
            Option("--model", "model_folder={}", "model folder, of a CellFM"),
            Option("--by", "by={}", "column of obs with the group of each cell"),
            Option("--biotype", "biotype={}", "kind of gene that is shown, such as lncRNA; the table has all"),
            common.results("runs/genes_specific", "tables and pictures"),
            common.SEED,
            common.LAYER,
            common.ACCELERATOR,
            common.OVERWRITE,
        ),
        "cellfm genes specific cells.h5ad --by cell_type --model models/80m --biotype lncRNA",
        words=("cells", "CELLS"),
        about="Genes that cls gathers from in some cell types more than in others, lncRNA in particular",
    ),
    "modules": Verb(
        "cellfm_torch.commands.genes_modules",
        "modules of genes that cells use alike",
        (
            Option("--model", "model_folder={}", "model folder, for a file of cells"),
            Option("--cells", "cells={}", "cells for activity, where embeddings of genes were given"),
            Option("--sets", "sets={}", ".gmt file that modules are tested against"),
            Option("--by", "by={}", "column of the cells' obs: activity by group"),
            Option("--key", "key={}", "obsm that is clustered (default: X_context)"),
            common.results("runs/genes_modules", "modules, tables and pictures"),
            Option("--seeds", "seeds={}", "of clusterings that must agree (default: 0,1,2,3,4)"),
            common.LAYER,
            common.ACCELERATOR,
            common.OVERWRITE,
        ),
        "cellfm genes modules cells.h5ad --model models/80m --sets GO.gmt --by cell_type",
        words=("given", "GENES_OR_CELLS"),
        about="Modules of genes that cells use alike: clusters of contextual embeddings, enriched sets, activity",
    ),
    "whatif": Verb(
        "cellfm_torch.commands.genes_whatif",
        "take genes out of cells, or set them: what moves",
        (
            common.MODEL,
            Option("--genes", "gene_list={}", "A,B or a file with one a line (default: the most variable)"),
            Option("--set-to", "set_to={}", "log1p(CP10K) that the gene gets (default: it is taken out)"),
            Option("--by", "by={}", "column of obs with groups of cells"),
            common.results("runs/genes_whatif", "tables and pictures"),
            common.SEED,
            common.LAYER,
            common.ACCELERATOR,
            common.OVERWRITE,
        ),
        "cellfm genes whatif cells.h5ad --by cell_type --model models/80m --genes tfs.txt",
        words=("cells", "CELLS"),
        about="Take genes out of cells, or set them: how far the embedding moves, with a permutation test",
    ),
    "build": Verb(
        "cellfm_torch.commands.genes_build",
        "HGNC's complete set -> a table of gene names",
        None,
        "cellfm genes build hgnc_complete_set.txt",
    ),
}

VERBS: dict[str, Verb | Group] = {
    "genes": Group("what the model knows about genes; tables of gene names", GENE_VERBS),
}
