"""Put pages from outside docs/ into the site of mkdocs, and make links work there as they do on GitHub."""

# mkdocs is there only where the site is built: the extra `docs`.
# pyright: reportMissingImports=false
from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGES = {
    "README.md": "index.md",
    "README.zh-CN.md": "index.zh-CN.md",
    "benchmarks/README.md": "benchmarks.md",
    "gptft/starter/README.md": "starter.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
"""Where each page from outside docs/ stands in the site."""

LINK = re.compile(r"\[([^\[\]]*)\]\(([^()\s]+)\)")
ROW = re.compile(r"^\|.*\|$", re.MULTILINE)
CODE = re.compile(r"`[^`\n]+`")
METADATA = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages."""
    from mkdocs.structure.files import File

    for source, place in PAGES.items():
        text = METADATA.sub("", (ROOT / source).read_text(encoding="utf-8"))
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links at the places in the site; a link to a file that has none (code) becomes its text."""
    place = page.file.src_uri
    source = next((source for source, name in PAGES.items() if name == place), f"docs/{place}")

    def moved(link: re.Match[str]) -> str:
        path, hash_mark, anchor = link[2].partition("#")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if not path or "://" in path or not (ROOT / target).exists():
            return link[0]  # where it leads nowhere, the strict build says so
        if target not in PAGES and not target.startswith("docs/"):
            return link[1]
        to = PAGES.get(target, target.removeprefix("docs/"))
        return f"[{link[1]}]({posixpath.relpath(to, posixpath.dirname(place) or '.')}{hash_mark}{anchor})"

    # GitHub wants the pipes of code in a table escaped; Python-Markdown shows the backslash.
    markdown = ROW.sub(lambda line: CODE.sub(lambda span: span[0].replace("\\|", "|"), line[0]), markdown)
    return LINK.sub(moved, markdown)
