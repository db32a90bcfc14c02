"""Cell types for cells: what `cellfm annotate` and `CellAnnotator` are made of."""
