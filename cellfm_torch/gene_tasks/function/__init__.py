"""What embeddings of genes say of what genes do: labels of genes predicted for genes that were not learned from."""

from cellfm_torch.gene_tasks.function.result import FunctionResult
from cellfm_torch.gene_tasks.function.run import gene_function

__all__ = ["FunctionResult", "gene_function"]
