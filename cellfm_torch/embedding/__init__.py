"""Embeddings of the cells of a file or an AnnData, block by block, where they belong: in an AnnData."""

from __future__ import annotations

from cellfm_torch.embedding.run import embed

__all__ = ["embed"]
