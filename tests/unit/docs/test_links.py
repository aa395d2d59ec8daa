"""Pages name only files that exist, and link only to pages and headings that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "demo" / "README.md", *(ROOT / "docs").rglob("*.md")]
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
OWN_FILE = re.compile(r"\b(?:trainer_core|lora_assets|tests|benchmarks|demo|docs)/[\w./-]+\.(?:py|md|json|yaml|toml)\b")
DOCS = ROOT / "docs"
HISTORY = DOCS / "adr"
"""Decisions name the files of their time."""


def relative(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    """Headings of a page as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ +(.+?)\s*$", page.read_text("utf-8"), re.M)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()).strip() for heading in headings]
    return {re.sub(r"\s", "-", text) for text in plain} | {re.sub(r"[\s-]+", "-", text) for text in plain}


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_link_leads_somewhere(page: Path) -> None:
    broken: list[str] = []
    for link in LINK.findall(page.read_text("utf-8")):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        there = (page.parent / target).resolve() if target else page
        outside = DOCS in page.parents and DOCS not in there.parents  # the site holds docs/ alone
        if outside or not there.exists() or (anchor and there.suffix == ".md" and anchor not in anchors(there)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", [page for page in PAGES if HISTORY not in page.parents], ids=relative)
def test_every_file_of_ours_that_a_page_names_exists(page: Path) -> None:
    named = {name for name in OWN_FILE.findall(page.read_text("utf-8")) if not re.search("[A-Z]{3}", name)}
    assert sorted(name for name in named if not (ROOT / name).exists()) == []
