"""Genetic perturbations: expression of cells in which genes were knocked out, knocked down or activated."""
