"""The name table between scFoundation's published weights and ours: one row per kind of tensor, read both ways."""

from __future__ import annotations

import re

from .table import Table, backwards, forwards

ENCODER = r"encoder\.transformer_encoder\.(\d+)\."
ATTENTION = r"decoder\.performer\.net\.layers\.(\d+)\.0\."
FEED_FORWARD = r"decoder\.performer\.net\.layers\.(\d+)\.1\."
ENDS = r"(weight|bias)"

# (official pattern, our template); see table.py.
TABLE: Table = (
    (r"pos_emb\.weight", "gene_emb.weight"),
    (r"token_emb\.mlp\." + ENDS, "value_enc.w1.{}"),
    (r"token_emb\.mlp2\." + ENDS, "value_enc.w2.{}"),
    (r"token_emb\.emb\.weight", "value_enc.table"),
    (r"token_emb\.emb_(mask|pad)\.weight", "value_enc.{}_emb"),
    (ENCODER + r"self_attn\.in_proj_" + ENDS, "encoder.layers.{}.qkv.{}"),
    (ENCODER + r"self_attn\.out_proj\." + ENDS, "encoder.layers.{}.out.{}"),
    (ENCODER + r"linear([12])\." + ENDS, "encoder.layers.{}.ff{}.{}"),
    (ENCODER + r"norm([12])\." + ENDS, "encoder.layers.{}.norm{}.{}"),
    (r"encoder\.norm\." + ENDS, "encoder.norm.{}"),
    (r"decoder_embed\." + ENDS, "to_decoder.{}"),
    (ATTENTION + r"norm\." + ENDS, "decoder.layers.{}.norm1.{}"),
    (ATTENTION + r"fn\.fast_attention\.projection_matrix", "decoder.layers.{}.attention.projection"),
    (ATTENTION + r"fn\.to_(q|k|v|out)\." + ENDS, "decoder.layers.{}.attention.{}.{}"),
    (FEED_FORWARD + r"norm\." + ENDS, "decoder.layers.{}.norm2.{}"),
    (FEED_FORWARD + r"fn\.fn\.w([12])\." + ENDS, "decoder.layers.{}.ff{}.{}"),
    (r"decoder\.performer\.calls_since_last_redraw", "decoder.calls_since_redraw"),
    (r"decoder\.norm\." + ENDS, "decoder.norm.{}"),
    (r"norm\." + ENDS, "norm.{}"),
    (r"to_final\." + ENDS, "head.{}"),
)

PREFIX = "model."
"""What published names begin with; a wrapper may have put more before it."""


def target_name(source: str) -> str | None:
    """Return our name of an official tensor, whatever wraps it, or None where the table does not know it."""
    found = forwards(TABLE, re.sub(r"^.*\bmodel\.", "", source))
    return found[0] if found else None


def source_name(target: str) -> str | None:
    """Return the official name of one of our tensors, or None where the table does not know it."""
    found = backwards(TABLE, target)
    return PREFIX + found[0] if found else None
