"""Pages of the site that are not files in ``docs``: documents elsewhere, sources, the reference.

Documents keep links that work in a checkout. Here each link to a file of the repository becomes a
link to the page that shows it, so the strict build notices every link to a missing file.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
# Documents outside of docs, each with its place on the site.
PAGES = {
    "README.md": "index.md",
    "FORMAT.md": "FORMAT.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "RELEASE.md": "RELEASE.md",
    "examples/cluster/README.md": "examples/cluster.md",
    "examples/detectron2/README.md": "examples/detectron2.md",
    "examples/mmlab/README.md": "examples/mmlab.md",
    "examples/recipes/README.md": "examples/recipes.md",
    "examples/timm/README.md": "examples/timm.md",
}
ORIGINS = {uri: path for path, uri in PAGES.items()}
LINK = re.compile(r"(?<=\]\()(?![a-z]+:)([^)#\s]+)")
PACKAGE = re.compile(r"^## `([\w.]+)`\n(.*?)(?=^## |\Z)", re.M | re.S)
NAME = re.compile(r"^\| `(\w+)` \|", re.M)
LANGUAGES = {".py": "python", ".sh": "shell", ".yaml": "yaml"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the reference's pages into the navigation, below the page that lists them."""
    assert config.nav is not None
    (section,) = (part["Reference"] for part in config.nav if "Reference" in part)
    section += [f"reference/{package}.md" for package, _ in _public_names()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not files in ``docs``."""
    for path, uri in PAGES.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    for path in {
        target
        for file in files.documentation_pages()
        for target in _targets(file)
        if Path(target).suffix in LANGUAGES and (ROOT / target).is_file()
    }:
        files.append(File.generated(config, _source_uri(path), content=_source_page(path)))
    for package, names in _public_names():
        page = _reference_page(package, names)
        files.append(File.generated(config, f"reference/{package}.md", content=page))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to files of the repository lead to their pages."""
    if page.file.src_uri == "api.md":
        markdown = PACKAGE.sub(_link_names, markdown)
    if page.file.src_uri.startswith(("source/", "reference/")):
        return markdown
    here = posixpath.dirname(page.file.src_uri)

    def replace(match: re.Match[str]) -> str:
        return posixpath.relpath(_uri(_resolve(page.file, match[1])), here or ".")

    return LINK.sub(replace, markdown)


def _targets(file: File) -> list[str]:
    return [_resolve(file, link) for link in LINK.findall(file.content_string)]


def _resolve(file: File, link: str) -> str:
    """The path in the repository that a link of a document means."""
    origin = ORIGINS.get(file.src_uri, f"docs/{file.src_uri}")
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), link))


def _uri(path: str) -> str:
    """The place on the site of a path in the repository."""
    if path in PAGES:
        return PAGES[path]
    if path.startswith("docs/") and Path(path).suffix not in LANGUAGES:
        return path.removeprefix("docs/")
    return _source_uri(path)


def _source_uri(path: str) -> str:
    return f"source/{path}.md"


def _source_page(path: str) -> str:
    code = (ROOT / path).read_text(encoding="utf-8")
    language = LANGUAGES[os.path.splitext(path)[1]]
    return f"# {path.rpartition('/')[2]}\n\n`{path}`\n\n````{language}\n{code}````\n"


def _public_names() -> list[tuple[str, list[str]]]:
    """Packages and their names, from the page that lists them."""
    sections = PACKAGE.findall((ROOT / "docs" / "api.md").read_text(encoding="utf-8"))
    return [(package, NAME.findall(text)) for package, text in sections]


def _reference_page(package: str, names: list[str]) -> str:
    entries = (f"::: {package}.{name}\n" for name in names)
    return "\n".join([f"# {package}\n", *entries])


def _link_names(section: re.Match[str]) -> str:
    """Let each name of a package's table lead to its entry in the reference."""
    return NAME.sub(rf"| [`\1`][{section[1]}.\1] |", section[0])
