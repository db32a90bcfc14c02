"""Files of cells in, batches of :class:`~cellfm_torch.batch.CellBatch` out."""
