"""Write an official checkpoint with random weights, to try the comparison at full size without the published files.

    python random_checkpoint.py --official CHECKOUT --output FILE.ckpt [--rows 24080 --layers 40 --no-read-depth]

The default is the 80M layout. Needs what record_mindspore.py needs.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np
from record_cells import Refusal
from record_network import build

NOISE = 0.05  # added to all that starts at zero or one (norms, masks, slopes), where an exchange would go unseen


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(description="An official checkpoint with random weights.")
    parser.add_argument("--official", type=Path, required=True, help="your checkout of biomed-AI/CellFM")
    parser.add_argument("--output", type=Path, required=True, help="the .ckpt to write")
    parser.add_argument("--rows", type=int, default=27856, help="of the gene embedding (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--dim", type=int, default=1536)
    parser.add_argument("--no-read-depth", action="store_true", help="without S and T tokens, as the 800M model")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    os.environ.setdefault("GLOG_v", "3")
    try:
        import mindspore as ms
    except ImportError as problem:
        print(f"error: MindSpore is not installed for {sys.executable}: {problem}", file=sys.stderr)
        return 2
    ms.set_context(mode=ms.PYNATIVE_MODE, device_target="CPU")
    ms.set_seed(options.seed)
    sizes = {"rows": options.rows, "dim": options.dim, "num_layers": options.layers, "num_heads": options.dim // 32}
    rest = {"lora": 0, "zeros": False, "num_classes": 0, "ecs": not options.no_read_depth}
    layout = "pretrain" if options.no_read_depth else "depth"
    try:
        network = build(ms, options.official.resolve(), {"layout": layout, **sizes, **rest})
    except Refusal as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    rng = np.random.default_rng(options.seed)
    for name, parameter in network.parameters_and_names():
        x = parameter.asnumpy()
        if np.ptp(x) == 0:
            noise = NOISE * rng.standard_normal(x.shape)
            parameter.set_data(ms.Tensor((x + noise).astype(np.float32)))
        parameter.name = name
    ms.save_checkpoint(network, str(options.output))
    print(f"{options.output}: {options.output.stat().st_size / 1e6:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
