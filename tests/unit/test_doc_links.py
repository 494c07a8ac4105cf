"""Every relative link in our Markdown leads to a file, and its anchor to a heading."""

import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
_CODE = re.compile(r"^( *)```.*?^ *```$|`[^`\n]*`", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"!?\[[^]]*]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)


def pages() -> list[Path]:
    folders = (page for folder in ("deploy", "docs", "envoy") for page in (ROOT / folder).rglob("*.md"))
    return sorted([*ROOT.glob("*.md"), *folders])


@cache
def anchors(page: Path) -> frozenset[str]:
    """As GitHub makes them: lower case, spaces to hyphens, other punctuation gone, repetitions numbered."""
    found: list[str] = []
    for heading in _HEADING.findall(_fences_out(page.read_text())):
        text = re.sub(r"\[([^]]*)]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        again = sum(each == anchor or re.fullmatch(rf"{re.escape(anchor)}-\d+", each) is not None for each in found)
        found.append(f"{anchor}-{again}" if again else anchor)
    return frozenset(found)


def _fences_out(text: str) -> str:
    return re.sub(r"^( *)```.*?^ *```$", "", text, flags=re.DOTALL | re.MULTILINE)


def broken(page: Path) -> list[str]:
    links = _LINK.findall(_CODE.sub("", page.read_text()))
    return [link for link in links if not re.match(r"[a-z]+:", link) and not _leads_somewhere(page, link)]


def _leads_somewhere(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    return target.exists() and (not anchor or anchor in anchors(target))


def test_every_relative_link_and_anchor_leads_somewhere() -> None:
    assert {str(page.relative_to(ROOT)): wrong for page in pages() if (wrong := broken(page))} == {}


def test_every_page_of_docs_is_in_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / link).resolve() for link in _LINK.findall(index.read_text())}
    ours = {page for page in pages() if page.is_relative_to(ROOT / "docs") and "decisions" not in page.parts}
    assert ours - linked - {index} == set()


def test_a_dead_link_and_a_dead_anchor_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A b\n[x](gone.md) [y](#a-b) [z](#c) `[w](gone.md)` [v](https://example.com/#q)\n")
    assert broken(page) == ["gone.md", "#c"]
