"""Pages and links of the documentation site that have another source than docs/.

The README, this project's other documents and the methods' own READMEs are pages of the site too,
and every package that others call has a page with what is public in it. mkdocs calls what is here
while it builds the site, see `hooks` in mkdocs.yml.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# Documents outside of docs/, by the page they become.
SOURCES = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    **{
        f"methods/{project.parent.name}.md": project.relative_to(ROOT).as_posix()
        for project in sorted(ROOT.glob("projects/*/README.md"))
    },
}
PAGE_OF = {source: page for page, source in SOURCES.items()}
# What others would call.
REFERENCE = (
    "detector",
    "config",
    "model_zoo",
    "data",
    "modeling",
    "layers",
    "engine",
    "checkpoint",
    "evaluation",
    "results",
    "visualization",
    "analysis",
)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_FENCE = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)
# Roles of Sphinx, which editors know and mkdocs does not.
_ROLE = re.compile(r":(?:class|func|meth|mod):<code>~?([^<]*)</code>")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the reference to the contents."""
    config.nav = [*(config.nav or []), {"Reference": [f"api/{name}.md" for name in REFERENCE]}]
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages whose source lies elsewhere."""
    from mkdocs.structure.files import File

    for page, source in SOURCES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    for name in REFERENCE:
        files.append(File.generated(config, f"api/{name}.md", content=_reference(name)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links to where things lie on the site."""
    uri = page.file.src_uri
    source = SOURCES.get(uri, f"docs/{uri}")

    def replace(match: re.Match[str]) -> str:
        image, text, link = match.groups()
        found = site_link(link, source, uri, config.repo_url or "", files.get_file_from_path)
        return f"{image}[{text}]({found})" if found is not None else text

    parts = _FENCE.split(markdown)
    return "".join(part if part[:3] == "```" else _LINK.sub(replace, part) for part in parts)


def on_page_content(html: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Write names in docstrings as code."""
    return _ROLE.sub(r"<code>\1</code>", html)


def site_link(
    link: str, source: str, page: str, repository: str, find: Callable[[str], object | None]
) -> str | None:
    """Return what a link in a document is on the site.

    Args:
        link: as it stands in the document.
        source: the document, relative to the repository.
        page: its page, relative to the site.
        repository: address of the repository, "" if none is known.
        find: returns what the site has under a path, or None.

    Returns:
        The link; None if it leads to a file of the repository, whose address is not known.
    """
    target, anchor, fragment = link.partition("#")
    if "://" in target or not target:
        return link
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    readme = f"{path}/README.md"
    known = PAGE_OF.get(path) or PAGE_OF.get(readme) or path.removeprefix("docs/")
    if find(known) is not None and (path.startswith("docs/") or known != path):
        return posixpath.relpath(known, posixpath.dirname(page) or ".") + anchor + fragment
    return f"{repository.rstrip('/')}/blob/main/{path}" if repository else None


def _reference(name: str) -> str:
    return f"# sap_detr.{name}\n\n::: sap_detr.{name}\n"
