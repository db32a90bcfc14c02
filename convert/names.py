"""The name table between official CellFM checkpoints and ours: one row per kind of tensor, read both ways."""

from __future__ import annotations

import re

ENCODER = r"encoder\.(\d+)\."

# (official pattern, our template). Only the layer number varies; everything else is literal.
TABLE: tuple[tuple[str, str], ...] = (
    (r"gene_emb", "gene_emb.weight"),
    (r"cls_token", "cls_token"),
    (r"zero_emb", "zero_emb"),
    (r"value_enc\.mask_emb", "mask_emb"),
    (r"value_enc\.value_enc\.(a|w1\.weight|w3\.weight|table\.weight)", "value_enc.{}"),
    (r"ST_emb", "depth_emb"),
    (r"ST_enc\.(a|w1\.weight|w3\.weight|table\.weight)", "depth_enc.{}"),
    (ENCODER + r"attn\.([qkvuo])_proj\.weight", "encoder.{}.retention.{}_proj.weight"),
    (ENCODER + r"ffn\.([uvo])_proj\.weight", "encoder.{}.glu.{}_proj.weight"),
    (ENCODER + r"post_norm([12])\.gamma", "encoder.{}.norm{}.weight"),
    (ENCODER + r"post_norm([12])\.beta", "encoder.{}.norm{}.bias"),
    (r"value_dec\.(w[12])\.weight", "gene_decoder.{}.weight"),
    (r"value_dec\.zero_logit\.([024])\.(weight|bias)", "gene_decoder.expressed.{}.{}"),
    (r"cellwise_dec\.map\.weight", "cell_decoder.map.weight"),
    (r"cellwise_dec\.zero_logit\.(weight|bias)", "cell_decoder.expressed.{}"),
)

# Training state, of no use to the network: (official pattern, why it is left out).
DROPPED: tuple[tuple[str, str], ...] = (
    (r"moment[12]\..+", "Adam moment"),
    (r"global_step|learning_rate|beta[12]_power", "optimiser state"),
    (r"current_iterator_step|last_overflow_iterator_step|scale_sense|.*loss_scale.*", "loss scaling state"),
)


def target_name(source: str) -> str | None:
    """Return our name of an official tensor, or None where the table does not know it."""
    for pattern, template in TABLE:
        match = re.fullmatch(pattern, source)
        if match:
            return template.format(*match.groups())
    return None


def drop_reason(source: str) -> str | None:
    """Return why an official tensor is left out of the network, or None where it is not."""
    return next((reason for pattern, reason in DROPPED if re.fullmatch(pattern, source)), None)
