"""docs/design.md, and what the documents link to and import, is there."""

from __future__ import annotations

import ast
import pkgutil
import re

import pytest
from test_imports import CHAINS, PACKAGE

ROOT = PACKAGE.parent
DESIGN = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?P<path>[^)#:\s]+)(?:#[^)\s]*)?\)")
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
DESCRIBED = re.compile(r"^::: (?P<name>[\w.]+)$", re.MULTILINE)


def _block(heading: str) -> str:
    """Return the first block of code below a heading of docs/design.md."""
    below = DESIGN.partition(f"\n## {heading}\n")[2]
    return below.partition("```text\n")[2].partition("```")[0]


def test_map_of_the_design_names_what_the_package_holds():
    first, *lines = _block("Map").splitlines()
    assert first == "eqcalc/"
    entries = [line.split() for line in lines]
    named = [entry[0] for entry in entries]
    there = [path.name for path in PACKAGE.glob("*.py") if path.name != "__init__.py"]
    there += [f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")]
    assert sorted(named) == sorted(there)
    assert [entry[0] for entry in entries if len(entry) < 3] == []  # each says what it is


def test_layers_of_the_design_are_those_that_are_tested():
    assert _block("Layers").splitlines() == CHAINS.strip().splitlines()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_of_a_document_lead_to_files(path):
    links = LINK.findall(CODE.sub("", path.read_text(encoding="utf-8")))
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_links_are_looked_for():
    assert len([link for path in DOCUMENTS for link in LINK.findall(path.read_text())]) > 20


def _exists(name: str) -> bool:
    """Tell whether a dotted name is a module, or an attribute of one."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def _imported(markdown: str) -> list[str]:
    """Return what the Python code of a document imports of eqcalc."""
    statements = [
        node
        for code in PYTHON.findall(markdown)
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("eqcalc")
    ]
    return [f"{node.module}.{alias.name}" for node in statements for alias in node.names]


def test_reference_describes_what_exists():
    names = [name for path in DOCUMENTS for name in DESCRIBED.findall(path.read_text())]
    assert len(names) > 10
    assert [name for name in names if not _exists(name)] == []


def test_index_of_the_reference_lists_every_page():
    folder = ROOT / "docs" / "api"
    pages = {path.name for path in folder.glob("*.md")} - {"index.md"}
    assert set(LINK.findall((folder / "index.md").read_text(encoding="utf-8"))) == pages


def test_code_of_the_documents_imports_what_exists():
    documents = [path for path in DOCUMENTS if "results" not in path.parts]  # what was measured
    names = {name for path in documents for name in _imported(path.read_text(encoding="utf-8"))}
    assert len(names) > 10
    assert [name for name in sorted(names) if not _exists(name)] == []


def test_pages_of_results_end_with_their_notes():
    notes = sorted((ROOT / "examples" / "results").glob("*_notes.md"))
    assert len(notes) >= 2
    for path in notes:
        page = path.with_name(path.name.replace("_notes", "")).read_text(encoding="utf-8")
        assert page.endswith(path.read_text(encoding="utf-8")), path.name
