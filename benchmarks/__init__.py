"""Speed and memory side by side with a peer, or with what the machine can do: ``python -m benchmarks THEME``."""
