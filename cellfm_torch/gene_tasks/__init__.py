"""What a model knows about genes: rows are genes here, and cells are what they are averaged over."""
