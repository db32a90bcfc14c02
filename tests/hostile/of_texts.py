"""Lists, tables and configurations, damaged: each must be read or end in one clear line."""

from __future__ import annotations

import functools
import gzip
import io
import json
import shutil
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
from harness import Case, judged
from json_mutations import mutated_json
from mutations import BYTES, TEXT, Rng
from omegaconf import OmegaConf

from cellfm_torch.commands.run_folder import RunFolder
from cellfm_torch.data import store_manifest, store_shard, store_write
from cellfm_torch.data.files import Input, find_inputs
from cellfm_torch.data.gene_sets import read_gmt
from cellfm_torch.data.gene_table import BUNDLED, GeneTable
from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.hgnc import read_hgnc
from cellfm_torch.data.options import ReadOptions
from cellfm_torch.data.store import Store
from cellfm_torch.data.store_table import StoreTable
from cellfm_torch.job_folder import open_job
from cellfm_torch.paths import PBMC3K

GENES = tuple(f"G{i}" for i in range(60))
YAML = (
    "!!python/object/apply:os.system ['touch BOOM']", "&a [*a]", "${oc.env:HOME}", "${run_dir}", "{", "- 1", "? x",
    "!!binary aGVsbG8=", "? !!python/name:os.system", "a: b: c", "\t", "<<: *x", "*x", "&x {<<: *x}", "???",
)  # fmt: skip
"""Lines of YAML that somebody may find in a configuration."""


def _spoilt(text: str, rng: Rng) -> tuple[bytes, str]:
    """Return a text with some lines or bytes changed, and what was done."""
    if rng.random() < 0.4:
        change = BYTES[int(rng.integers(len(BYTES)))]
        return change(text.encode(), rng), change.__name__
    done = []
    for _ in range(int(rng.integers(1, 4))):
        by_line = TEXT[int(rng.integers(len(TEXT)))]
        text = by_line(text, rng)
        done.append(by_line.__name__)
    return text.encode(), ", ".join(done)


def _read(call: Callable[[], object]) -> Callable[[], str]:
    def read() -> str:
        call()
        return ""

    return read


def manifest(number: int, folder: Path) -> Case:
    """A table of files."""
    rng = np.random.default_rng([9, number])
    for i in range(3):
        (folder / f"cells{i}.h5ad").write_bytes(b"\x89HDF")
    rows = [
        "path,donor,age",
        "cells0.h5ad,d1,30",
        "cells1.h5ad,d2,40",
        "cells*.h5ad,d3,",
        f"{folder}/cells2.h5ad,d4,5",
    ]
    content, what = _spoilt("\n".join(rows) + "\n", rng)
    (folder / "list.csv").write_bytes(content)

    def read() -> str:
        found = find_inputs(folder / "list.csv")
        return "" if found and all(entry.path.exists() for entry in found) else "files that do not exist"

    return judged(what, read, (folder.name,))


def gene_table(number: int, folder: Path) -> Case:
    """The table that genes are found by, HGNC's own, a list of genes, or sets of genes."""
    rng = np.random.default_rng([10, number])
    kind = str(rng.choice(["table", "hgnc", "genes.txt", "gmt"]))
    path = folder / f"given.{kind}"
    if kind == "table":
        content, what = _spoilt(_some_table(), rng)
        packed = gzip.compress(content)
        if rng.random() < 0.4:
            change = BYTES[int(rng.integers(len(BYTES)))]
            packed, what = change(gzip.compress(_some_table().encode()), rng), f"packed, {change.__name__}"
        path.write_bytes(packed)
        call: Callable[[], object] = lambda: GeneTable.load(path).find("TP53")  # noqa: E731
    elif kind == "hgnc":
        header = "symbol\tstatus\tensembl_gene_id\tprev_symbol\talias_symbol\n"
        lines = "".join(f"{gene}\tApproved\tENSG{i:011}\tOLD{i}|P{i}\tA{i}\n" for i, gene in enumerate(GENES))
        content, what = _spoilt(header + lines, rng)
        path.write_bytes(content)
        call = lambda: read_hgnc(path)  # noqa: E731
    elif kind == "genes.txt":
        content, what = _spoilt("\n".join(GENES) + "\n", rng)
        path.write_bytes(content)
        call = lambda: GeneVocab.from_file(path).match(["G1", "X"])  # noqa: E731
    else:
        sets = "\n".join(f"SET{i}\tof made-up genes\t" + "\t".join(GENES[i : i + 9]) for i in range(20))
        content, what = _spoilt(sets + "\n", rng)
        path.write_bytes(content)
        call = lambda: read_gmt(path, GENES).of_size(1)  # noqa: E731
    return judged(f"{kind}: {what}", _read(call), (folder.name, path.name))


@functools.cache
def _some_table() -> str:
    return "\n".join(gzip.decompress(Path(BUNDLED).read_bytes()).decode().split("\n")[:400]) + "\n"


@functools.cache
def _store() -> Path:
    made = Path(tempfile.mkdtemp(prefix="fuzz-store"))
    cells = anndata.read_h5ad(PBMC3K)
    for i in range(2):
        cells[60 * i : 60 * (i + 1)].copy().write_h5ad(made / f"cells{i}.h5ad")
    options = store_write.StoreOptions(read=ReadOptions(min_genes=1), shard_cells=32, block_cells=8)
    sources = [Input(made / f"cells{i}.h5ad") for i in range(2)]
    store_write.prepare(sources, made / "store", options, lambda *_: None)
    return made / "store"


def _spoil_shard(path: Path, rng: Rng) -> str:
    """Change the index or a block of a shard, with checksums that fit: what somebody would write on purpose."""
    data, tail = path.read_bytes(), store_shard._TAIL
    start, size, _ = tail.unpack(data[-tail.size - len(store_shard.MAGIC) : -len(store_shard.MAGIC)])
    with np.load(io.BytesIO(data[start : start + size])) as there:
        index = dict(there)
    blocks, name = bytearray(data[:start]), str(rng.choice(list(index)))
    if rng.random() < 0.5:
        ends = index["ends"].astype(int)
        i = int(rng.integers(len(ends)))
        begin = int(store_shard.block_starts(index["ends"])[i])
        for _ in range(int(rng.integers(1, 6))):
            near = 16 if rng.random() < 0.7 else ends[i] - begin
            blocks[begin + int(rng.integers(near))] = int(rng.integers(256))
        index["checksums"][i] = zlib.crc32(bytes(blocks[begin : ends[i]]))
        what = f"block {i}"
    else:
        x = index[name]
        changes: list[Callable[[], Any]] = [
            lambda: x[:-1], lambda: x[:0], lambda: np.concatenate([x, x]), lambda: x[::-1].copy(), lambda: x[:, None],
            lambda: x.astype(np.float64) * np.nan, lambda: -x.astype(np.int64), lambda: x.astype("S5"), lambda: x + 200,
            lambda: x * 0, lambda: x.astype(np.int64) * 2**40, lambda: np.zeros(10**8, x.dtype), lambda: x[0],
        ]  # fmt: skip
        index[name] = np.asarray(changes[int(rng.integers(len(changes)))]())
        what = f"index, {name}"
        if rng.random() < 0.1:
            del index[name]
    packed = io.BytesIO()
    np.savez_compressed(packed, **index)
    end = tail.pack(len(blocks), len(packed.getvalue()), zlib.crc32(packed.getvalue()))
    path.write_bytes(bytes(blocks) + packed.getvalue() + end + store_shard.MAGIC)
    return f"{path.name}: {what}"


def store(number: int, folder: Path) -> Case:
    """A prepared store: its manifest with sound checksums, or the bytes of any of its files."""
    rng = np.random.default_rng([11, number])
    given = folder / "given"
    shutil.copytree(_store(), given)
    listed = given / store_manifest.NAME
    how = rng.random()
    if how < 0.4:
        shards = sorted((given / "shards").iterdir())
        what = _spoil_shard(shards[int(rng.integers(len(shards)))], rng)
    elif how < 0.7:
        lines = [json.loads(line.partition(b" ")[2]) for line in listed.read_bytes().splitlines()]
        at = int(rng.integers(len(lines)))
        lines[at], what = mutated_json(lines[at], rng)
        texts = [json.dumps(line) for line in lines]
        listed.write_text("".join(f"{zlib.crc32(text.encode()):08x} {text}\n" for text in texts))
        what = f"line {at}: {what}"
    else:
        files = sorted(path for path in given.rglob("*") if path.is_file())
        file = files[int(rng.integers(len(files)))]
        change = BYTES[int(rng.integers(len(BYTES)))]
        file.write_bytes(change(file.read_bytes(), rng))
        what = f"{file.name}: {change.__name__}"

    def read() -> str:
        found = Store(given)
        outside = [shard.path for shard in found.shards if not shard.path.resolve().is_relative_to(given.resolve())]
        if outside:
            return f"reads {outside[0]}"
        table = StoreTable(found, GeneVocab(found.genes))
        table.read(np.arange(len(table)))
        return "" if len(found.obs) == len(found) and len(found.names()) == len(found) else "other annotations"

    return judged(what, read, (str(given),))


RUN = {"run_dir": "x", "seed": 0, "model": {"_target_": "cellfm_torch.CellFM", "dim": 8}, "trainer": {"max_steps": 3}}


def config(number: int, folder: Path) -> Case:
    """What a run and a job say of themselves in their folders."""
    rng = np.random.default_rng([12, number])
    kind = str(rng.choice(["config.yaml", "metrics.json", "job.json"]))
    run = folder / "run"
    run.mkdir()
    (run / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(RUN)))
    (run / "metrics.json").write_text(json.dumps({"test_loss": 1.0}))
    path = run / kind
    if kind == "config.yaml" and rng.random() < 0.4:
        lines = path.read_text().splitlines()
        at, line = int(rng.integers(len(lines))), YAML[int(rng.integers(len(YAML)))]
        lines[at] = f"{lines[at].split(':')[0]}: {line}" if rng.random() < 0.5 else line
        content, what = ("\n".join(lines) + "\n").encode(), line
    elif kind != "config.yaml" and rng.random() < 0.6:
        node, what = mutated_json({"test_loss": 1.0, "list": [1, {"a": None}]}, rng)
        content = json.dumps(node).encode()
    else:
        content, what = _spoilt(path.read_text() if path.is_file() else '{\n"seed": 0,\n"model": "x"\n}', rng)
    path.write_bytes(content)
    now: Any = OmegaConf.create(RUN)

    def read() -> str:
        if kind == "job.json":
            open_job(run, {"seed": 0, "model": "x"})
        else:
            RunFolder(run).check(now, resume=True)
            RunFolder(run).finished(now)
        return "BOOM" if Path("BOOM").exists() else ""

    return judged(f"{kind}: {what}", read, (str(run),))
