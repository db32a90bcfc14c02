"""Ways in which files of cells go wrong: by bytes, by structure, by content."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from formats import WRITERS

Rng = np.random.Generator
HUGE = 2**40


def cells(genes: list[str], rng: Rng) -> anndata.AnnData:
    """30 cells of 60 genes, with a layer, raw and annotations."""
    counts = rng.poisson(rng.gamma(0.5, 6.0, size=(30, len(genes)))).astype(np.float32)
    counts[:, 0] = 1
    adata = anndata.AnnData(
        sp.csr_matrix(counts),
        obs=pd.DataFrame({"cell_type": pd.Categorical(["B", "T", "NK"] * 10)}, index=[f"cell{i}" for i in range(30)]),
        var=pd.DataFrame({"gene_ids": [f"x{i}" for i in range(len(genes))]}, index=genes),
    )
    adata.layers["umi"] = adata.X.copy()
    adata.raw = adata.copy()
    return adata


# By bytes, whatever the format.


def flip(data: bytes, rng: Rng) -> bytes:
    changed = bytearray(data)
    for at in rng.integers(0, max(len(data), 1), size=int(rng.integers(1, 40))):
        if at < len(changed):
            changed[at] = int(rng.integers(256))
    return bytes(changed)


def flip_start(data: bytes, rng: Rng) -> bytes:
    return flip(data[:2048], rng) + data[2048:]


def truncate(data: bytes, rng: Rng) -> bytes:
    return data[: int(rng.integers(0, len(data) + 1))]


def cut_out(data: bytes, rng: Rng) -> bytes:
    a, b = np.sort(rng.integers(0, len(data) + 1, size=2))
    return data[:a] + data[b:]


def blank(data: bytes, rng: Rng) -> bytes:
    a = int(rng.integers(0, len(data) + 1))
    b = min(len(data), a + int(rng.integers(1, 4096)))
    return data[:a] + bytes(b - a) + data[b:]


def insert(data: bytes, rng: Rng) -> bytes:
    a = int(rng.integers(0, len(data) + 1))
    return data[:a] + rng.bytes(int(rng.integers(1, 200))) + data[a:]


def repeat_piece(data: bytes, rng: Rng) -> bytes:
    a, b = np.sort(rng.integers(0, len(data) + 1, size=2))
    return data[:b] + data[a:]


def nothing_left(_: bytes, __: Rng) -> bytes:
    return b""


BYTES = (flip, flip_start, truncate, cut_out, blank, insert, repeat_piece, nothing_left)


# By structure: HDF5.


def _objects(file: h5py.File) -> list[str]:
    names: list[str] = []
    file.visit(names.append)
    return names


def _pick(file: h5py.File, rng: Rng) -> str:
    return str(rng.choice(_objects(file)))


def delete(file: h5py.File, rng: Rng) -> None:
    del file[_pick(file, rng)]


def replace(file: h5py.File, rng: Rng) -> None:
    name = _pick(file, rng)
    others: list[Any] = [1.5, "text", np.arange(3), np.zeros((2, 2, 2)), np.array([b"a", b"b"]), np.arange(7) > 3]
    others += [np.empty(0), np.array([1 + 2j]), h5py.Empty("f")]
    attributes = dict(file[name].attrs)
    del file[name]
    file[name] = others[int(rng.integers(len(others)))]
    if rng.random() < 0.5:
        for key, value in attributes.items():
            file[name].attrs[key] = value


def resize(file: h5py.File, rng: Rng) -> None:
    datasets = [name for name in _objects(file) if isinstance(file[name], h5py.Dataset) and file[name].shape]
    name = str(rng.choice(datasets))
    values, attributes = file[name][...], dict(file[name].attrs)
    changed = [values[:-1], values[:0], np.concatenate([values, values]), values[..., None]][int(rng.integers(4))]
    del file[name]
    file[name] = changed
    for key, value in attributes.items():
        file[name].attrs[key] = value


def change_attribute(file: h5py.File, rng: Rng) -> None:
    with_some = [name for name in _objects(file) if len(file[name].attrs)]
    if not with_some:
        return delete(file, rng)
    target = file[str(rng.choice(with_some))]
    key = str(rng.choice(list(target.attrs)))
    others: list[Any] = ["csc_matrix", "nonsense", -1, HUGE, [HUGE, HUGE], [-3, 60], "", "null", "dataframe", "array"]
    if rng.random() < 0.3:
        del target.attrs[key]
    else:
        target.attrs[key] = others[int(rng.integers(len(others)))]
    return None


def change_values(file: h5py.File, rng: Rng) -> None:
    datasets = [n for n in _objects(file) if isinstance(file[n], h5py.Dataset) and file[n].dtype.kind in "iuf"]
    data = file[str(rng.choice([n for n in datasets if file[n].size]))]
    at = tuple(int(rng.integers(size)) for size in data.shape)
    others = [-1, 10**9, 2**31 - 1, -(2**31)] + ([np.nan, np.inf, 0.5, 3e38] if data.dtype.kind == "f" else [])
    value = others[int(rng.integers(len(others)))]
    if data.dtype.kind != "f":
        value = int(np.clip(value, np.iinfo(data.dtype).min, np.iinfo(data.dtype).max))
    if rng.random() < 0.7:
        data[at] = value
    else:
        data[...] = np.full(data.shape, value, dtype=data.dtype)


def link_to_nowhere(file: h5py.File, rng: Rng) -> None:
    name = _pick(file, rng)
    del file[name]
    link = h5py.ExternalLink("no.h5", "/x") if rng.random() < 0.5 else h5py.SoftLink(f"/{name}")
    file[name] = link


def claim_more(file: h5py.File, rng: Rng) -> None:
    """Make a dataset claim far more than the file holds."""
    datasets = [name for name in _objects(file) if isinstance(file[name], h5py.Dataset) and file[name].shape]
    name = str(rng.choice(datasets))
    attributes, dtype, shape = dict(file[name].attrs), file[name].dtype, file[name].shape
    del file[name]
    file.create_dataset(name, shape=(HUGE, *shape[1:]), dtype=dtype, chunks=(64, *shape[1:]))
    for key, value in attributes.items():
        file[name].attrs[key] = value


def swap(file: h5py.File, rng: Rng) -> None:
    first, second = _pick(file, rng), _pick(file, rng)
    if first.startswith(second) or second.startswith(first):
        return
    file.move(first, "aside")
    file.move(second, first)
    file.move("aside", second)


HDF5 = (delete, replace, resize, change_attribute, change_values, link_to_nowhere, claim_more, swap)


# By structure: text.

WORDS = ("", "x", "NA", "-1", "1.5", "inf", "1e400", "99999999999999999999", '"', "0x10", "é", "\x00", "3 4", "1,5")


def change_field(text: str, rng: Rng) -> str:
    lines = text.split("\n")
    i = int(rng.integers(len(lines)))
    separator = next((s for s in (",", "\t", ";", " ") if s in lines[i]), " ")
    fields = lines[i].split(separator)
    fields[int(rng.integers(len(fields)))] = str(rng.choice(WORDS))
    lines[i] = separator.join(fields)
    return "\n".join(lines)


def drop_line(text: str, rng: Rng) -> str:
    lines = text.split("\n")
    del lines[int(rng.integers(len(lines)))]
    return "\n".join(lines)


def drop_fields(text: str, rng: Rng) -> str:
    lines = text.split("\n")
    i = int(rng.integers(len(lines)))
    separator = next((s for s in (",", "\t", ";", " ") if s in lines[i]), " ")
    fields = lines[i].split(separator)
    lines[i] = separator.join(fields[: int(rng.integers(len(fields) + 1))])
    return "\n".join(lines)


def add_fields(text: str, rng: Rng) -> str:
    lines = text.split("\n")
    i = int(rng.integers(len(lines)))
    separator = next((s for s in (",", "\t", ";", " ") if s in lines[i]), " ")
    lines[i] += (separator + str(rng.choice(WORDS))) * int(rng.integers(1, 5))
    return "\n".join(lines)


def keep_header(text: str, _: Rng) -> str:
    return text.split("\n")[0]


def drop_header(text: str, _: Rng) -> str:
    return "\n".join(text.split("\n")[1:])


def other_separator(text: str, rng: Rng) -> str:
    return text.replace(",", str(rng.choice(["|", " ", "\t", ";", ",,"]))).replace("\t", "  ")


def windows(text: str, _: Rng) -> str:
    return text.replace("\n", "\r\n")


def other_case(text: str, rng: Rng) -> str:
    return text.title() if rng.random() < 0.5 else text.lower()


def negative(text: str, _: Rng) -> str:
    return text.replace(",1", ",-1").replace(" 1\n", " -1\n")


def one_line(text: str, _: Rng) -> str:
    return text.replace("\n", "")


TEXT = (
    change_field,
    change_field,
    drop_line,
    drop_fields,
    add_fields,
    keep_header,
    drop_header,
    other_separator,
    windows,
    other_case,
    negative,
    one_line,
)


# By content: sound files of what cannot be used.


def _with(change: Callable[[anndata.AnnData, Rng], None]) -> Callable[[anndata.AnnData, Rng], None]:
    return change


def log_normalised(adata: anndata.AnnData, _: Rng) -> None:
    adata.X = sp.csr_matrix(np.log1p(adata.X.toarray() / adata.X.sum(1) * 1e4))


def scaled(adata: anndata.AnnData, _: Rng) -> None:
    dense = adata.X.toarray()
    adata.X = (dense - dense.mean(0)) / (dense.std(0) + 1)


def mouse(adata: anndata.AnnData, _: Rng) -> None:
    adata.var_names = [f"Sox{i}" for i in range(adata.n_vars)]


def nonsense_genes(adata: anndata.AnnData, rng: Rng) -> None:
    adata.var_names = [str(name) for name in rng.choice(["", "nan", "1", "A", "é", "x" * 3000], adata.n_vars)]


def empty(adata: anndata.AnnData, _: Rng) -> None:
    adata.X = sp.csr_matrix(adata.shape, dtype=np.float32)


def same_names(adata: anndata.AnnData, _: Rng) -> None:
    adata.obs_names = ["cell"] * adata.n_obs
    adata.var_names = [adata.var_names[0]] * adata.n_vars


def fractions(adata: anndata.AnnData, rng: Rng) -> None:
    adata.X = sp.csr_matrix(adata.X.toarray() * rng.random(adata.shape))


CONTENT = (log_normalised, scaled, mouse, nonsense_genes, empty, same_names, fractions)

GROUPS: dict[str, tuple[str, ...]] = {
    "h5ad": ("h5ad csr", "h5ad csc", "h5ad dense"),
    "mtx": ("mtx", "mtx.gz", "matrix.mtx itself"),
    "csv": ("csv", "csv of genes", "tsv of R", "semicolons", "txt"),
}


def damaged_file(number: int, folder: Path, genes: list[str]) -> tuple[Path, str]:
    """Write case `number` into an empty folder; returns the path to read and what was done to it."""
    rng = np.random.default_rng([5, number])
    group = list(GROUPS)[number % len(GROUPS)]
    kind = str(rng.choice(GROUPS[group]))
    adata = cells(genes, rng)
    how = rng.random()
    if how < 0.15:
        change = CONTENT[int(rng.integers(len(CONTENT)))]
        change(adata, rng)
        return WRITERS[kind](adata if group == "h5ad" else _whole(adata, kind), folder), f"{kind}: {change.__name__}"
    path = WRITERS[kind](adata, folder)
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    target = files[int(rng.integers(len(files)))]
    if group == "mtx" and rng.random() < 0.1:
        target.unlink()
        return path, f"{kind}: {target.name} gone"
    if how < 0.4 or (group == "h5ad" and how < 0.45):
        by_bytes = BYTES[int(rng.integers(len(BYTES)))]
        target.write_bytes(by_bytes(target.read_bytes(), rng))
        return path, f"{kind}: {by_bytes.__name__}"
    if group == "h5ad":
        by_object = HDF5[int(rng.integers(len(HDF5)))]
        with h5py.File(target, "r+") as file:
            by_object(file, rng)
        return path, f"{kind}: {by_object.__name__}"
    by_line = TEXT[int(rng.integers(len(TEXT)))]
    packed = target.suffix == ".gz"
    text = (gzip.decompress(target.read_bytes()) if packed else target.read_bytes()).decode()
    for _ in range(int(rng.integers(1, 3))):
        text = by_line(text, rng)
    target.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    return path, f"{kind}: {by_line.__name__}"


def _whole(adata: anndata.AnnData, kind: str) -> anndata.AnnData:
    """What text formats can hold: they are written as whole numbers, except where a table may have others."""
    return (
        adata
        if kind not in WRITERS
        else anndata.AnnData(np.asarray(sp.csr_matrix(adata.X).todense()), obs=adata.obs, var=adata.var)
    )
