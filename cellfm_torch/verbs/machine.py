"""What concerns this machine, and the command line itself."""

from __future__ import annotations

from cellfm_torch.verb import Group, Verb

VERBS: dict[str, Verb | Group] = {
    "estimate": Verb(
        "cellfm_torch.commands.estimate",
        "memory, arithmetic and expected speed of a model",
        None,
        "cellfm estimate 800m --tokens 65536 --dtype bfloat16 --rate 600",
    ),
}
