"""Pages that are made from the code: commands, Python reference, measurements, changelog. A hook of mkdocs.

The files beside this one are found because mkdocs puts the folder of a hook on the path while it reads it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from draw import DRAWINGS
from mkdocs.structure.files import File
from roles import markdown

import cellfm_torch
from cellfm_torch import cli
from cellfm_torch.verb import Verb
from cellfm_torch.verbs import VERBS, flat

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"

# Pages of the reference: the rooms (first part of the module) whose public names stand on each.
API = {
    "models": ("Models", ("model",)),
    "data": ("Batches and data", ("batch", "data")),
    "retention": ("Retention", ("ops",)),
    "tasks": ("Training tasks", ("tasks",)),
    "callbacks": ("Callbacks", ("callbacks",)),
    "embeddings": ("Embeddings and predictions", ("embedding", "predict", "enhance")),
    "cells": ("Cell types, batches, conditions", ("annotator", "analysis", "report")),
    "genes": ("Genes", ("gene_tasks",)),
    "perturbations": ("Perturbations and drugs", ("perturbation", "drug")),
    "errors": ("Errors", ("errors",)),
}

# Themes of benchmarks/results, by the beginning of a file's name; the longest that fits counts.
THEMES = {
    "embed": "Embedding cells",
    "train": "Training steps",
    "retention": "Retention and embedding by length",
    "memory": "Peak memory",
    "scaling": "Several processes",
    "faults": "Killed, stopped and starved",
    "loader": "Loading and preparing cells",
    "atlas": "Ten million cells",
    "startup": "Start-up of the command line",
    "convert": "Converting checkpoints",
    "parity": "Equal to recorded numbers",
    "scfoundation": "scFoundation: speed",
    "bulk": "scFoundation: bulk samples",
    "cell_tasks": "Annotation, integration and comparison on real cells",
    "gene_tasks": "What the model knows of genes",
    "perturb": "Perturbed genes",
    "chem": "Compounds",
    "drug": "Drug response",
    "enhance": "Read depth",
}


def page_of(command: str) -> str:
    """Return the page of a command."""
    return f"commands/{command.replace(' ', '-')}.md"


def public_names() -> dict[str, list[str]]:
    """Return the public names by page of the reference."""
    page_of_room = {room: page for page, (_, rooms) in API.items() for room in rooms}
    names: dict[str, list[str]] = {page: [] for page in API}
    for module, found in cellfm_torch._HOME.items():
        names[page_of_room[module.split(".")[0]]] += found
    return names


def first_line(name: str) -> str:
    """Return the first sentence of a public object's docstring."""
    return markdown((getattr(cellfm_torch, name).__doc__ or "").strip().partition("\n")[0])


def own_help(command: str) -> str:
    """Return what ``cellfm COMMAND --help`` prints, of a command that has options of its own."""
    out = io.StringIO()
    width, os.environ["COLUMNS"] = os.environ.get("COLUMNS"), "100"
    try:
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            cli.main([*command.split(), "--help"])
    finally:
        os.environ.pop("COLUMNS") if width is None else os.environ.update(COLUMNS=width)
    if not out.getvalue().strip():
        raise ValueError(f"cellfm {command} --help printed nothing")
    return out.getvalue().rstrip()


def command_page(command: str, verb: Verb, tutorials: dict[str, list[str]]) -> str:
    """Write the page of one command."""
    lines = [f"# cellfm {command}", "", f"{verb.help[0].upper()}{verb.help[1:]}.", ""]
    lines += ["```sh", verb.example, "```", ""]
    if found := tutorials.get(command):
        lines += ["Step by step: " + ", ".join(found) + ".", ""]
    if verb.options is None:
        lines += ["## Options", "", "```text", own_help(command), "```", ""]
        return "\n".join(lines)
    if verb.words:
        lines += [f"`{verb.words[1]}` stands before or between the options: the key `{verb.words[0]}`.", ""]
    lines += ["## Options", "", "| option | key | |", "|---|---|---|"]
    for option in verb.options:
        key, _, value = option.template.partition("=")
        flag = f"{option.flag} {option.key.upper()}" if "{}" in option.template else option.flag
        shown = key.lstrip("+") if "{}" in value else option.template
        lines.append(f"| `{flag}` | `{shown}` | {option.help.replace('|', chr(92) + '|')} |")
    config = ROOT / "conf" / f"{command.replace(' ', '_')}.yaml"
    if not config.is_file():
        return "\n".join([*lines, ""])
    lines += ["", "## All settings", "", "Any of them can follow the options as `key=value`.", ""]
    if command == "train":
        words = "A run is put together from groups of `conf/`, here those of the small run; its `config.yaml` has all."
        lines += [words, ""]
        files = [config, *(ROOT / "conf" / name for name in TRAIN_FILES)]
    else:
        files = [config]
    for file in files:
        title = file.relative_to(ROOT).as_posix()
        lines += [f'```yaml title="{title}"', file.read_text(encoding="utf-8").rstrip(), "```", ""]
    return "\n".join(lines)


TRAIN_FILES = (
    "experiment/pretrain.yaml",
    "data/files.yaml",
    "genes/default.yaml",
    "task/pretrain.yaml",
    "optim/adamw.yaml",
    "trainer/default.yaml",
    "callbacks/pretrain.yaml",
)


def tutorials_by_command(docs: Path) -> dict[str, list[str]]:
    """Find which tutorials run which command."""
    found: dict[str, list[str]] = {}
    known = set(flat(VERBS))
    for page in sorted((docs / "tutorials").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        link = f"[{heading(page)}](../tutorials/{page.name})"
        for command in re.findall(r"^cellfm ([a-z]+(?: [a-z]+)?)", text, flags=re.MULTILINE):
            name = command if command in known else command.split()[0]
            if link not in found.setdefault(name, []):
                found[name].append(link)
    return found


def commands_index() -> str:
    """Write the list of commands."""
    lines = ["# Commands", "", "`cellfm COMMAND [options] [key=value ...]`; `cellfm COMMAND --help` says the same.", ""]
    lines += ["| command | |", "|---|---|"]
    for command, verb in flat(VERBS).items():
        lines.append(f"| [`{command}`]({page_of(command).removeprefix('commands/')}) | {verb.help.replace('|', '/')} |")
    return "\n".join([*lines, ""])


INTRODUCTION = (
    "Everything is imported from `cellfm_torch`. Shapes: B cells, N genes of all cells together, D width, H heads, "
    "K head width; values are log1p(counts per 10,000) unless it says counts."
)


def api_pages() -> Iterator[tuple[str, str]]:
    """Write the reference: a page per group of rooms, and the list of all names."""
    index = ["# Python reference", "", INTRODUCTION, ""]
    for page, names in public_names().items():
        title = API[page][0]
        index += [f"## [{title}]({page}.md)", "", "| name | |", "|---|---|"]
        index += [f"| [`{name}`][cellfm_torch.{name}] | {first_line(name)} |" for name in names] + [""]
        body = [f"# {title}", ""]
        for name in names:
            body += [f"::: cellfm_torch.{name}", ""]
        yield f"api/{page}.md", "\n".join(body)
    yield "api/index.md", "\n".join(index)


def theme_of(stem: str) -> str:
    """Return the theme of a file of results; a new theme must be named in `THEMES`."""
    fitting = [theme for theme in THEMES if stem.startswith(f"{theme}_")]
    if not fitting:
        raise ValueError(f"benchmarks/results/{stem}: no theme of docs/_site/generate.py fits its name")
    return max(fitting, key=len)


def performance_index() -> str:
    """Write the list of measurements, by theme, the newest first, with the figures that all have in common."""
    lines = [(ROOT / "docs" / "_site" / "performance.md").read_text(encoding="utf-8").rstrip(), ""]
    for theme, title in THEMES.items():
        files = sorted((file for file in RESULTS.glob("*.md") if theme_of(file.stem) == theme), reverse=True)
        if not files:
            continue
        rows = [(file, figures(file.with_suffix(".json"))) for file in files]
        with_figures = any(any(found) for _, found in rows)
        lines += [f"## {title}", ""]
        if with_figures:
            lines += ["| measured | ratio to the peer | U | largest error |", "|---|---|---|---|"]
        for file, found in rows:
            link = f"[{heading(file)}]({file.name}) ({file.stem})"
            lines.append(f"| {link} | {' | '.join(found)} |" if with_figures else f"* {link}")
        lines.append("")
    return "\n".join(lines)


def heading(file: Path) -> str:
    """Return the heading of a page."""
    return file.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")


def figures(file: Path) -> list[str]:
    """Return the three figures of a measurement that its JSON has at the top, empty where it has none."""
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    values = [found.get(key) for key in ("ratio_to_peer", "useful_utilisation", "max_error")]
    return [f"{value:.3g}" if isinstance(value, (int, float)) else "" for value in values]


def pages(docs: Path) -> Iterator[tuple[str, str]]:
    """Yield every page that is made here, by its place."""
    yield "commands/index.md", commands_index()
    tutorials = tutorials_by_command(docs)
    for command, verb in flat(VERBS).items():
        yield page_of(command), command_page(command, verb, tutorials)
    yield from api_pages()
    yield "performance/index.md", performance_index()
    for file in RESULTS.glob("*.md"):
        yield f"performance/{file.name}", file.read_text(encoding="utf-8")
    # It has every word, and would stand among the answers to every search.
    yield "changelog.md", "---\nsearch:\n  exclude: true\n---\n\n" + (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def on_config(config: Any, **_: Any) -> Any:
    """Put the made pages into the navigation."""
    for entry in config.nav:
        if entry.get("Commands"):
            entry["Commands"] = ["commands/index.md", *({command: page_of(command)} for command in flat(VERBS))]
        elif entry.get("Python reference"):
            entry["Python reference"] = ["api/index.md", *({API[page][0]: f"api/{page}.md"} for page in API)]
        elif entry.get("Performance"):
            by_theme = {title: sorted(RESULTS.glob("*.md"), reverse=True) for title in THEMES.values()}
            measured = [
                {title: [{f.stem: f"performance/{f.name}"} for f in files if THEMES[theme_of(f.stem)] == title]}
                for title, files in by_theme.items()
            ]
            entry["Performance"] = ["performance/index.md", *(one for one in measured if all(one.values()))]
    return config


def on_files(files: Any, config: Any, **_: Any) -> Any:
    """Add the made pages and the pictures of measurements."""
    for place, text in pages(Path(config.docs_dir)):
        files.append(File.generated(config, place, content=text))
    for picture in RESULTS.glob("*.png"):
        files.append(File.generated(config, f"performance/{picture.name}", abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Put the drawings in, and let links to measurements that hold in the repository hold on the site."""
    markdown = re.sub(r"\{\{ drawing (\w+) \}\}", lambda found: DRAWINGS[found[1]](), markdown)
    up = "../" * page.file.src_uri.count("/")
    return re.sub(r"\]\((?:\.\./)+benchmarks/results/", f"]({up}performance/", markdown)
