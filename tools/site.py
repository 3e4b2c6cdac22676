"""Hooks of MkDocs: the site's pages that stand elsewhere in the repository, or are made from published files.

The README is the home page; the gallery shows the figures with their captions; every notebook is a page.
"""

from __future__ import annotations

import re
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

from lib.headlines import Study, read_studies
from lib.params import stages
from lib.paths import ROOT

FIGURES = ROOT / "figures"
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "CONTRIBUTING.md", "CHANGELOG.md": "CHANGELOG.md"}
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
    for name, uri in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](").replace("](README.md", "](index.md")
        files.append(File.generated(config, uri, content=text))
    files.append(File.generated(config, "gallery.md", content=gallery(read_studies())))
    notebooks, pictures = sorted((ROOT / "notebooks").rglob("*.ipynb")), sorted(FIGURES.rglob("*.png"))
    for path in [*notebooks, *pictures, ROOT / "CITATION.cff"]:
        if ".ipynb_checkpoints" not in path.parts:
            uri = path.relative_to(ROOT).as_posix()
            files.append(File(uri, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def gallery(studies: list[Study]) -> str:
    """Every published figure with its caption, those of a real model behind those of the grown ones."""
    parts = ["# Gallery", "Every published figure, with its caption. Three fine-tunes each; intervals are 95%."]
    for study in studies:
        parts.append(f"## {study.name}: {study.question}")
        folder = FIGURES / study.name
        pictures = [*folder.glob("*/*.png"), *folder.glob("*.png")]
        for each in sorted(pictures, key=lambda path: (path.stem != study.figure, path.stem, str(path))):
            name = each.relative_to(folder).with_suffix("").as_posix()
            caption = " ".join(each.with_suffix(".txt").read_text(encoding="utf-8").split())
            parts.append(f"### {name}\n\n![{name}]({each.relative_to(ROOT).as_posix()})\n\n{caption}")
    return "\n\n".join(parts)


def on_post_page(output: str, page: Any, config: MkDocsConfig) -> str:
    """Let links between notebooks lead to their pages."""
    return re.sub(r'href="([^":]+)\.ipynb(#[^"]*)?"', r'href="\1.html\2"', output)
