"""File formats: each gives its counts as blocks of CSR rows, the table of its genes and that of its cells."""
