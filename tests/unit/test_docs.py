"""What the documentation prints is there: snippets of example DAGs, links, pictures, a page per operator."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent

import pytest
from airflow.sdk import BaseOperator

from musicapi_provider.operators import musicapi as operators
from musicapi_provider.operators import prompt_table, prompt_table_steps, store_tracks
from musicapi_provider.sensors import musicapi as sensors
from tests.conftest import PROJECT

PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
SNIPPET = re.compile(r"<!-- from (?P<file>\S+) -->\n```python\n(?P<code>.*?)```", re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")


def _snippets() -> list[tuple[str, str, str]]:
    return [
        (page.name, match["file"], match["code"])
        for page in PAGES
        for match in SNIPPET.finditer(page.read_text())
    ]


def _anchor(heading: str) -> str:
    """Return what GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _targets(page: Path) -> set[str]:
    return {match["target"] for match in LINK.finditer(page.read_text())}


@pytest.mark.parametrize(("page", "file", "code"), _snippets())
def test_a_snippet_is_a_piece_of_an_example_dag(page: str, file: str, code: str) -> None:
    """The example DAGs run in the tests, so whatever is printed runs."""
    lines = (PROJECT / file).read_text().splitlines()
    length = code.count("\n")
    pieces = (dedent("\n".join(lines[at : at + length])) for at in range(len(lines)))

    assert code.rstrip("\n") in pieces, f"{page} prints what {file} does not hold"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    """Files, pictures and headings that a page points to."""
    local = {target for target in _targets(page) if not target.startswith(("http://", "https://"))}
    broken = []
    for target in local:
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE) if file.suffix == ".md" else []
        if not file.exists() or (anchor and anchor not in map(_anchor, headings)):
            broken.append(target)

    assert not broken


MODULES = [operators, prompt_table, prompt_table_steps, store_tracks, sensors]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_operator_has_a_page(module: object) -> None:
    """Named by its class in the title, with a snippet, and linked in the README."""
    classes = [
        value.__name__
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, BaseOperator) and value.__module__ == module.__name__  # type: ignore[attr-defined]
    ]
    titles = {page.read_text().partition("\n")[0].removeprefix("# "): page for page in PAGES}
    readme = _targets(PROJECT / "README.md")

    assert classes
    for name in classes:
        assert SNIPPET.search(titles[name].read_text())
        assert f"docs/{titles[name].name}" in readme


def test_every_picture_is_shown() -> None:
    """A picture that no page shows only makes the repository larger."""
    shown = {target.rpartition("/")[2] for page in PAGES for target in _targets(page)}
    there = {path.name for path in (PROJECT / "docs" / "images").iterdir()}

    assert there <= shown
