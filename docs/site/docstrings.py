"""A griffe extension that reads eqcalc's docstrings.

Types stand in the signatures alone, so that an entry of a docstring is "name : text" where
numpydoc has "name : type". Here the text becomes a description, a list of fields becomes a
section of attributes, doctests become code, and tables and roles become Markdown. The files
themselves stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import griffe

SECTIONS = ("Parameters", "Attributes", "Returns", "Yields", "Raises")
UNNAMED = ("Returns", "Yields")  # may be plain text
DASHES = re.compile(r"-{3,}$")
ENTRY = re.compile(r"(?P<names>\*{0,2}\w+(?:, \*{0,2}\w+)*) : (?P<text>.*)$")
FURTHER = re.compile(r"; (?=\w+(?:, \w+)* : )")
RULE = re.compile(r"=+(?:  +=+)+$")
ROLE = re.compile(r":(?:mod|class|func|meth|attr|data|exc):`(?P<short>~?)(?P<name>[\w.]+)`")


class ReadableDocstrings(griffe.Extension):
    """Translate every docstring of a package once it is loaded."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: object) -> None:
        """Translate the docstrings of all objects of a package."""
        for item in _objects(pkg):
            if item.docstring is not None:
                item.docstring.value = translate(item.docstring.value, item)


def translate(text: str, item: griffe.Object) -> str:
    """Return a docstring as numpydoc and Markdown."""
    lines = _with_field_lists(list(_one_by_one(text.splitlines())), item)
    lines = list(_with_tables(_with_doctests(_with_sections(lines))))
    return ROLE.sub(
        lambda found: _reference(found["name"], bool(found["short"]), item), "\n".join(lines)
    )


def _objects(module: griffe.Object) -> Iterator[griffe.Object]:
    yield module
    for member in module.members.values():
        if not member.is_alias:
            yield from _objects(member)


def _one_by_one(lines: list[str]) -> Iterator[str]:
    """Put each of several entries on a line, separated by semicolons, on a line of its own."""
    for line in lines:
        yield from FURTHER.split(line) if ENTRY.match(line) else [line]


def _with_field_lists(lines: list[str], item: griffe.Object) -> list[str]:
    """Put the heading of a section over "name : text" lines that describe a class's fields."""
    if not item.is_class:
        return lines
    found: list[str] = []
    inside, in_section = False, False
    for number, line in enumerate(lines):
        in_section = in_section or (
            line in SECTIONS and number + 1 < len(lines) and bool(DASHES.match(lines[number + 1]))
        )
        entry = ENTRY.match(line)
        starts = entry is not None and not inside and not in_section
        if starts and set(entry["names"].split(", ")) <= set(item.all_members):
            found += ["Attributes", "----------"]
            inside = True
        inside = inside and line.strip() != ""
        found.append(line)
    return found


def _with_sections(lines: list[str]) -> Iterator[str]:
    """Move the text of "name : text" below the name."""
    section = ""
    for number, line in enumerate(lines):
        following, first = [*lines[number + 1 : number + 3], "", ""][:2]
        if DASHES.match(following) and first.startswith("See "):
            line = f"**{line}:**"
            lines[number + 1] = ""
        elif DASHES.match(following):
            section = line if line in SECTIONS else ""
            if section:
                yield ""
        elif section and line.startswith(">>> "):
            section = ""
            yield from ("", "Examples", "--------")
        elif section and line and not line.startswith(" ") and not DASHES.match(line):
            entry = ENTRY.match(line)
            if entry is not None:
                yield entry["names"] + (" :" if section in UNNAMED else "")
                line = f"    {entry['text']}"
            elif section in UNNAMED:
                if DASHES.match(lines[number - 1]):
                    yield ":"
                line = f"    {line}"
        yield line


def _with_doctests(lines: Iterator[str]) -> Iterator[str]:
    inside = False
    for line in lines:
        if line.startswith(">>> ") and not inside:
            inside = True
            yield "```pycon"
        if inside and not line.strip():
            inside = False
            yield "```"
        yield line
    if inside:
        yield "```"


def _with_tables(lines: Iterator[str]) -> Iterator[str]:
    """Turn tables of three rules into Markdown's."""
    columns: list[slice] = []
    rows: list[list[str]] = []
    n_rules = 0
    for line in lines:
        if RULE.match(line):
            n_rules += 1
            starts = [rule.start() for rule in re.finditer("=+", line)]
            columns = [slice(a, b) for a, b in zip(starts, [*starts[1:], None], strict=True)]
            if n_rules == 3:
                yield from _table(rows)
                columns, rows, n_rules = [], [], 0
        elif n_rules == 0:
            yield line
        else:
            cells = [line[column].strip() for column in columns]
            if cells[0]:
                rows.append(cells)
            else:  # the row above goes on
                rows[-1] = [f"{a} {b}".strip() for a, b in zip(rows[-1], cells, strict=True)]


def _table(rows: list[list[str]]) -> Iterator[str]:
    head, *body = [" | ".join(cell.replace("|", r"\|") for cell in row) for row in rows]
    yield f"| {head} |"
    yield "|" + " --- |" * len(rows[0])
    for row in body:
        yield f"| {row} |"


def _reference(name: str, is_short: bool, item: griffe.Object) -> str:
    """Return a link to an object of eqcalc where a page has it, else its name alone."""
    target = name
    if not name.startswith("eqcalc."):
        for scope in (item, item.parent):
            if scope is not None and name in scope.all_members:
                target = f"{scope.path}.{name}"
                break
        else:
            try:
                target = item.resolve(name)
            except griffe.NameResolutionError:
                target = name
    shown = name.rpartition(".")[2] if is_short else name
    return f'<autoref identifier="{target}" optional><code>{shown}</code></autoref>'
