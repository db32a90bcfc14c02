"""What is computed from embeddings, counts and annotations of cells: arrays in, arrays and tables out."""
