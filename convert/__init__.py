"""The bridge between official MindSpore checkpoints and cellfm_torch; needs neither MindSpore nor a GPU."""
