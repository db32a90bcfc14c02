"""Embeddings of genes: as the model has them, and in the context of cells."""

from cellfm_torch.gene_tasks.embeddings.run import gene_embeddings
from cellfm_torch.gene_tasks.embeddings.static import static_embeddings

__all__ = ["gene_embeddings", "static_embeddings"]
