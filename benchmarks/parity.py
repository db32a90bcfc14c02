"""Error tables of recordings of the official network: ``python benchmarks/parity.py FILE.npz=CKPT ... --output STEM``.

A recording is made by tests/parity/record_mindspore.py from the checkpoint after the equals sign. No speed is claimed:
the cells per second of the official code are those of the recording's second forward pass.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "parity")]

from cases import network_of  # noqa: E402
from comparison import Report, compare, read_recording  # noqa: E402


def as_json(report: Report) -> dict[str, Any]:
    stages = [
        {"name": s.name, "largest_error": s.largest, "relative_error": s.relative, "allowed": s.allowed}
        for s in report.stages
    ]
    first = report.first_beyond
    passed = {"first_beyond": first.name if first else None, "notes": report.notes}
    return {"recording": report.about, "ours": report.ours, "stages": stages, **passed}


def as_markdown(report: Report) -> str:
    about = report.about
    speed = f"{about['cells_per_second']:.3g} cells/s of the official code"
    lines = [
        f"### {about['checkpoint']}, MindSpore {about['mindspore']}, {about['mode']}, {about['dtype']}",
        "",
        f"{about['cells']}; {about['num_layers']} layers, D {about['dim']}; {speed}.",
        "",
        "| | largest error | relative | allowed | |",
        "|---|---|---|---|---|",
    ]
    for s in report.stages:
        verdict = "beyond" if s.beyond else ""
        lines.append(f"| {s.name} | {s.largest:.1e} | {s.relative:.1e} | {s.allowed:.1e} | {verdict} |")
    return "\n".join([*lines, "", *(f"Note: {note}." for note in report.notes)]).rstrip() + "\n"


def worst(report: Report, kind: str) -> str:
    """Return the largest relative error of one kind of stage."""
    kinds = {"gradient": [s for s in report.stages if s.name.startswith("gradient")]}
    kinds["layer"] = [s for s in report.stages if s.name.startswith(("layer", "tokens"))]
    kinds["loss"] = [s for s in report.stages if s.name == "loss"]
    taken = {s.name for group in kinds.values() for s in group}
    kinds["prediction"] = [s for s in report.stages if s.name not in taken]
    errors = [s.relative for s in kinds[kind]]
    # NaN is larger than anything, which max() does not know.
    return f"{max(errors, key=lambda x: (x != x, x)):.1e}" if errors else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recordings", nargs="+", metavar="FILE.npz=CKPT")
    parser.add_argument("--output", type=Path, required=True, help="without suffix: .md and .json are written")
    options = parser.parse_args()
    reports, networks = [], {}
    for pair in options.recordings:
        file, checkpoint = pair.split("=", 1)
        about, arrays = read_recording(Path(file))
        if checkpoint not in networks:
            networks = {checkpoint: network_of(Path(checkpoint), about["num_heads"])}  # one at a time: they are large
        reports.append(compare(about, arrays, networks[checkpoint]))
        print(reports[-1].render())
    kinds = ("layer", "prediction", "loss", "gradient")
    head = "| checkpoint | MindSpore | mode | dtype | cells | " + " | ".join(f"worst {kind}" for kind in kinds) + " | |"
    lines = [head, "|---" * (head.count("|") - 1) + "|"]
    for report in reports:
        about, first = report.about, report.first_beyond
        fields = [about[key] for key in ("checkpoint", "mindspore", "mode", "dtype", "cells")]
        verdict = f"beyond from {first.name}" if first else "within"
        lines.append("| " + " | ".join([*fields, *(worst(report, kind) for kind in kinds), verdict]) + " |")
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads; torch {torch.__version__}"
    text = f"Machine: {machine}, Python {platform.python_version()}.\n\n" + "\n".join(lines) + "\n\n"
    text += "\n".join(as_markdown(report) for report in reports)
    options.output.with_suffix(".md").write_text(text)
    result = {"machine": machine, "comparisons": [as_json(report) for report in reports]}
    options.output.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
