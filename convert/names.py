"""The name table between official CellFM checkpoints and ours: one row per kind of tensor, read both ways."""

from __future__ import annotations

import re

from .table import Table, backwards, forwards

LAYER = r"encoder\.(\d+)\."
QUERY = r"query_layer\.(\d+)\."

# (official pattern, our template); see table.py. Names of ours that start with "head." belong to a task and not to the
# network.
TABLE: Table = (
    (r"gene_emb", "gene_emb.weight"),
    (r"cls_token", "cls_token"),
    (r"zero_emb", "zero_emb"),
    (r"value_enc\.mask_emb", "mask_emb"),
    (r"value_enc\.value_enc\.(a|w1\.weight|w3\.weight|table\.weight)", "value_enc.{}"),
    (r"ST_emb", "depth_emb"),
    (r"ST_enc\.(a|w1\.weight|w3\.weight|table\.weight)", "depth_enc.{}"),
    (LAYER + r"attn\.([qkvuo])_proj\.weight", "encoder.{}.retention.{}_proj.weight"),
    (LAYER + r"attn\.lora_([qkvuo])\.A\.weight", "encoder.{}.retention.{}_proj.lora_a"),
    (LAYER + r"attn\.lora_([qkvuo])\.B\.weight", "encoder.{}.retention.{}_proj.lora_b"),
    (LAYER + r"ffn\.([uvo])_proj\.weight", "encoder.{}.glu.{}_proj.weight"),
    (LAYER + r"ffn\.lora_([uvo])\.A\.weight", "encoder.{}.glu.{}_proj.lora_a"),
    (LAYER + r"ffn\.lora_([uvo])\.B\.weight", "encoder.{}.glu.{}_proj.lora_b"),
    (LAYER + r"post_norm([12])\.gamma", "encoder.{}.norm{}.weight"),
    (LAYER + r"post_norm([12])\.beta", "encoder.{}.norm{}.bias"),
    (r"value_dec\.(w1|w2)\.weight", "gene_decoder.{}.weight"),
    (r"value_dec\.zero_logit\.([024])\.(weight|bias)", "gene_decoder.expressed.{}.{}"),
    (r"cellwise_dec\.map\.weight", "cell_decoder.map.weight"),
    (r"cellwise_dec\.zero_logit\.(weight|bias)", "cell_decoder.expressed.{}"),
    # Cell-type heads, of pretraining with labels and of annotation.
    (r"cluster_emb", "head.cluster_emb"),
    (r"classifier\.weight", "head.classifier.weight"),
    (r"proj\.([024])\.(weight|bias)", "head.proj.{}.{}"),
    (r"query\.attn\.([qkvuo])_proj\.weight", "head.query.retention.{}_proj.weight"),
    (r"query\.attn\.lora_([qkvuo])\.A\.weight", "head.query.retention.{}_proj.lora_a"),
    (r"query\.attn\.lora_([qkvuo])\.B\.weight", "head.query.retention.{}_proj.lora_b"),
    (r"query\.ffn\.([uvo])_proj\.weight", "head.query.glu.{}_proj.weight"),
    (r"query\.ffn\.lora_([uvo])\.A\.weight", "head.query.glu.{}_proj.lora_a"),
    (r"query\.ffn\.lora_([uvo])\.B\.weight", "head.query.glu.{}_proj.lora_b"),
    (r"query\.post_norm([12])\.gamma", "head.query.norm{}.weight"),
    (r"query\.post_norm([12])\.beta", "head.query.norm{}.bias"),
    (QUERY + r"attn1\.([qkvuo])_proj\.weight", "head.query_layers.{}.self_retention.{}_proj.weight"),
    (QUERY + r"attn2\.([qkvuo])_proj\.weight", "head.query_layers.{}.cross_retention.{}_proj.weight"),
    (QUERY + r"ffn\.([uvo])_proj\.weight", "head.query_layers.{}.glu.{}_proj.weight"),
    (QUERY + r"post_norm([123])\.gamma", "head.query_layers.{}.norm{}.weight"),
    (QUERY + r"post_norm([123])\.beta", "head.query_layers.{}.norm{}.bias"),
)

HEAD = "head."
EXTRACTOR = "extractor."
"""Annotation fine-tuning wraps the backbone in a module of this name; its own layers stand beside it."""

MOMENT = r"moment([12])\.(.+)"

# Training state, of no use to the network: (official pattern, why it is left out).
DROPPED: tuple[tuple[str, str], ...] = (
    (MOMENT, "Adam moment"),
    (r"global_step|learning_rate|beta[12]_power|epoch_num|step_num", "optimiser state"),
    (r"current_iterator_step|last_overflow_iterator_step|scale_sense|.*loss_scale.*", "loss scaling state"),
)


def target_name(source: str) -> str | None:
    """Return our name of an official tensor, or None where the table does not know it."""
    inner = source.removeprefix(EXTRACTOR)
    found = forwards(TABLE, inner)
    if found is None or (inner != source and found[1].startswith(HEAD)):
        return None  # heads stand beside the extractor
    return found[0]


def source_name(target: str, *, extractor: bool = False) -> str | None:
    """Return the official name of one of our tensors, or None where the table does not know it.

    Parameters
    ----------
    target
        As :func:`target_name` returns it.
    extractor
        The layout of annotation fine-tuning, whose backbone has a prefix.
    """
    found = backwards(TABLE, target)
    if found is None:
        return None
    name, template = found
    return EXTRACTOR + name if extractor and not template.startswith(HEAD) else name


def drop_reason(source: str) -> str | None:
    """Return why an official tensor is left out of the network, or None where it is not."""
    return next((reason for pattern, reason in DROPPED if re.fullmatch(pattern, source)), None)
