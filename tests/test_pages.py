"""Links lead somewhere, both READMEs say the same, and the site builds and loads nothing from outside."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
READMES = (ROOT / "README.md", ROOT / "README.zh-CN.md")
PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    ROOT / "benchmarks" / "README.md",
    *(ROOT / "recipes").rglob("README.md"),
    ROOT / "gptft" / "starter" / "README.md",
]
CODE = re.compile(r"^ *```.*?^ *```$|(?<=\n\n)(?: {4,}\S[^\n]*\n+)+|`[^`]*`", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\[\]]*\]\(([^()\s]+)\)")


def links(page: Path) -> list[str]:
    return LINK.findall(CODE.sub("", page.read_text(encoding="utf-8")))


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in links(page):
        path, _, anchor = link.partition("#")
        if "://" in link or link.startswith("mailto:"):
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT) and target.exists(), f"{link} leads nowhere"
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"


def blocks(text: str) -> list[str]:
    return re.findall(r"^ {4,}\S.*$", text, re.MULTILINE)


def test_both_readmes_have_the_same_sections_code_and_links():
    english, chinese = (re.split(r"^## ", page.read_text(encoding="utf-8"), flags=re.MULTILINE) for page in READMES)
    assert len(english) == len(chinese) > 5
    for ours, theirs in zip(english, chinese, strict=True):
        assert blocks(ours) == blocks(theirs)
        for pattern in (LINK, re.compile(r"`((?:gptft|make|pip|python) [^`]+)`")):
            mine, other = (
                {" ".join(found.split()) for found in pattern.findall(text)} - {page.name for page in READMES}
                for text in (ours, theirs)
            )
            assert mine == other, ours.splitlines()[0]
        for start in ("- ", "| ", "1.", "2.", "3."):
            counts = [sum(line.startswith(start) for line in text.splitlines()) for text in (ours, theirs)]
            assert counts[0] == counts[1], f"{ours.splitlines()[0]}: lines with {start}"
        # Numbers are not translated.
        numbers = [sorted(re.findall(r"\d+\.\d+", text)) for text in (ours, theirs)]
        assert numbers[0] == numbers[1]
        assert len(re.findall(r"[\u4e00-\u9fff]", theirs)) > 20, "a section is not translated"
    # Each leads to the other, at the top.
    assert [READMES[1].name in english[0], READMES[0].name in chinese[0]] == [True, True]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built strictly: a link that leads nowhere, or a page outside the navigation, is an error."""
    pytest.importorskip("material", reason="mkdocs-material is not installed: pip install -c constraints.txt '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_has_each_page(site):
    assert "两条命令" in (site / "index.zh-CN.html").read_text(encoding="utf-8")
    assert 'href="docs/' not in (site / "index.html").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        assert (site / page.relative_to(ROOT / "docs").with_suffix(".html")).is_file()
    assert not list(site.rglob("*.py"))


def test_the_site_loads_nothing_from_outside(site):
    loaded = re.compile(r"<(?:script|img|iframe|source|link)\b[^>]*?\b(?:src|href)=[\"']?((?:https?:)?//[^\"' >]+)")
    for page in site.rglob("*.html"):
        outside = [found for found in loaded.findall(page.read_text(encoding="utf-8")) if "canonical" not in found]
        assert outside == [], page
    for sheet in site.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")) == []
