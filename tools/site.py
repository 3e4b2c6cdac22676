"""Hooks of MkDocs: the site's pages that stand elsewhere in the repository, or are made from published files.

The README is the home page; the gallery shows the figures with their captions; every notebook is a page.
"""

from __future__ import annotations

import re
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

from lib.params import stages
from lib.paths import ROOT
from lib.tables.headlines import Study, read_studies

FIGURES = ROOT / "figures"
EARLY = 100  # before mkdocs-jupyter looks for notebooks


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the notebooks in the navigation, in the order of the studies and stages."""
    pages: list[Any] = ["notebooks/00-overview.ipynb"]
    for study in read_studies():
        pages.append({study.name: [f"notebooks/{study.name}/{each.stem}.ipynb" for each in stages(study.name)]})
    config.nav = [{"Notebooks": pages} if "Notebooks" in entry else entry for entry in config.nav or []]
    return config


@event_priority(EARLY)
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the home page, the gallery, notebooks and figures."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    files.append(File.generated(config, "index.md", content=readme))
    files.append(File.generated(config, "gallery.md", content=gallery(read_studies())))
    pictures = sorted(FIGURES.rglob("*.png"))
    for path in [*sorted((ROOT / "notebooks").rglob("*.ipynb")), *pictures]:
        if ".ipynb_checkpoints" not in path.parts:
            uri, directories = path.relative_to(ROOT).as_posix(), config.use_directory_urls
            files.append(File(uri, str(ROOT), config.site_dir, directories))
    return files


def gallery(studies: list[Study]) -> str:
    """Every published figure with its caption, those of a real model behind those of the grown ones."""
    parts = ["# Gallery", "Every published figure, with its caption. Three fine-tunes each; intervals are 95%."]
    for study in studies:
        parts.append(f"## {study.name}: {study.question}")
        folder = FIGURES / study.name
        for each in [*sorted(folder.glob("*.png")), *sorted(folder.glob("*/*.png"))]:
            name = each.relative_to(folder).with_suffix("").as_posix()
            caption = " ".join(each.with_suffix(".txt").read_text(encoding="utf-8").split())
            parts.append(f"### {name}\n\n![{name}]({each.relative_to(ROOT).as_posix()})\n\n{caption}")
    return "\n\n".join(parts)


def on_post_page(output: str, page: Any, config: MkDocsConfig) -> str:
    """Let links between notebooks lead to their pages."""
    return re.sub(r'href="([^":]+)\.ipynb(#[^"]*)?"', r'href="\1.html\2"', output)
