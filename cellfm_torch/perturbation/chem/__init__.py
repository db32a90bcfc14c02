"""Chemical perturbations: cells that were treated with a compound at a dose."""
