"""What comments and documents cite is there: sections of the facts, headings of the notes, files, names."""

from __future__ import annotations

import ast
import functools
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import PROJECT

FACTS, NOTES = PROJECT / "docs" / "musicapi-facts.md", PROJECT / "docs" / "airflow-notes.md"
PACKAGE = PROJECT / "plugins" / "musicapi_provider"
_SECTION = r"\d+(?:\.\d+)?"
#: "facts 3.1", "facts 1.1 and 3.1", "facts 2.2, 9"; "``musicapi-facts.md`` 6.4".
_CITED = re.compile(rf"\bfacts(?:-?\.md`*)? ((?:{_SECTION})(?:(?:, | and )(?:{_SECTION})(?![\w-]))*)")
#: "airflow-notes.md: Costs", "``airflow-notes.md``, the race".
_NOTED = re.compile(r"airflow-notes\.md`*(?:: |, )([A-Za-z][A-Za-z ]+)")
_FILE = re.compile(r"`([\w/-]+(?:\.[\w-]+)*\.(?:py|md|toml|yaml))`")
_ROLE = re.compile(r":(?:mod|class|func|meth|data|attr):`~?([\w.]+)`")


def _files() -> list[Path]:
    """Return the files of the repository; where there is no git, those of its folders."""
    git = shutil.which("git") or "git"
    listed = subprocess.run([git, "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=False)
    found = [PROJECT / name for name in listed.stdout.split()]
    return [path for path in found or PROJECT.glob("[!.]*/**/*.*") if path.exists()]


FILES = _files()
FOLDERS = ("plugins", "include", "dags", "tests", "benchmarks", "docs")
TEXTS = [
    path
    for path in FILES
    if path.suffix in (".py", ".md") and path != Path(__file__)
    if path.relative_to(PROJECT).parts[0] in (*FOLDERS, "README.md", "CONTRIBUTING.md")
]
SOURCES = [path for path in TEXTS if path.suffix == ".py"]


def _headings(path: Path) -> list[str]:
    return re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)


def _name(path: Path) -> str:
    return str(path.relative_to(PROJECT))


@pytest.mark.parametrize("path", TEXTS, ids=_name)
def test_cited_sections_exist(path: Path) -> None:
    """A reader who follows a citation arrives."""
    sections = {
        match[1] for heading in _headings(FACTS) if (match := re.match(rf"({_SECTION})[. ]", heading))
    }
    headings = " | ".join(_headings(NOTES)).lower()
    text = re.sub(r"\s*\n\s*(?:#:? )?", " ", path.read_text())
    cited = {section for match in _CITED.finditer(text) for section in re.findall(_SECTION, match[1])}
    noted = {match[1].strip().lower() for match in _NOTED.finditer(text)}

    assert cited <= sections
    assert not {words for words in noted if words not in headings}


def test_there_are_citations() -> None:
    """A pattern that finds nothing proves nothing."""
    assert sum(len(_CITED.findall(path.read_text())) for path in SOURCES) > 80


@pytest.mark.parametrize("path", TEXTS, ids=_name)
def test_named_files_exist(path: Path) -> None:
    """Files that a text names in code quotes are in the repository."""
    known = [f"/{one.relative_to(PROJECT)}" for one in FILES]
    known += ["/index.csv", "/values.yaml"]  # files of users
    gone = {name for name in _FILE.findall(path.read_text()) if not any(_ends(one, name) for one in known)}

    assert not gone


def _ends(path: str, name: str) -> bool:
    return path.endswith(f"/{name}")


@functools.cache
def _symbols() -> set[str]:
    """Return the last names of everything that the package defines: modules, classes, functions, members."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        found.add(path.parent.name if path.stem == "__init__" else path.stem)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                found.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
    return found


def _exists(name: str, symbols: set[str]) -> bool:
    """Say whether a role's target is there; a full path must be right from its beginning."""
    parts = name.lstrip(".").split(".")
    if not set(parts) - {"musicapi_provider"} <= symbols:
        return False
    if parts[0] != "musicapi_provider":
        return True
    place = PACKAGE
    for part in parts[1:]:
        if (place / part).is_dir():
            place /= part
        elif (module := place / f"{part}.py").exists():
            place = module
        else:
            source = place if place.is_file() else place / "__init__.py"
            return bool(re.search(rf"\b{part}\b", source.read_text()))
    return True


@pytest.mark.parametrize("path", [path for path in SOURCES if PACKAGE in path.parents], ids=_name)
def test_named_objects_exist(path: Path) -> None:
    """Modules, classes and functions that a docstring refers to."""
    symbols = _symbols()
    gone = {
        name
        for name in _ROLE.findall(path.read_text())
        if not name.startswith(("csv", "io", "json", "airflow", "requests", "zlib"))
        and not _exists(name, symbols)
    }

    assert not gone
