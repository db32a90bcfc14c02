"""How cell lines, and single cells, respond to drugs."""
