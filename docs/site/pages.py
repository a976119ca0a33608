"""A mkdocs hook that makes the site from the repository as it is.

The site has the tree of the repository: a page lies where its file lies, so that a link
between two Markdown files is the same in both. Scripts of ``examples/`` become pages with
their source, and so does every other text file that a page links to. Nothing is copied.
"""

from __future__ import annotations

import ast
import posixpath
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md", "docs/api/*.md")
SCRIPTS = ("examples/*.py",)
RESULTS = ("examples/results/*.md",)
GALLERY = "examples/index.md"
IMAGES = (".png", ".svg")
LANGUAGES = {
    ".py": "python",
    ".cpp": "cpp",
    ".h": "cpp",
    ".toml": "toml",
    ".sh": "bash",
    ".cfg": "ini",
}
LINK = re.compile(r"(?P<before>\]\()(?P<path>[^)#:\s]+)(?P<after>(?:#[^)\s]*)?\))")
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
EVERY_MODULE = re.compile(r"<!-- every module of (?P<folder>\S+) -->")
PICTURE = re.compile(r"!\[(?P<text>[^\]]*)\]\((?P<path>[^)]+)\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the examples into the navigation and watch what the pages are made of."""
    entries = [GALLERY, *(f"{path}.md" for path in _found(SCRIPTS)), *_found(RESULTS)]
    for entry in config.nav or []:
        if entry == "Examples":
            config.nav[config.nav.index(entry)] = {"Examples": entries}
    config.watch += [str(ROOT / name) for name in ("README.md", "CONTRIBUTING.md", "examples")]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add every page, and what the pages link to."""
    files.append(File.generated(config, GALLERY, content=_gallery()))
    pending = [*_found(PAGES), *_found(SCRIPTS), *_found(RESULTS)]
    pending += _linked(GALLERY, _gallery())
    seen: set[str] = set()
    while pending:
        path = pending.pop()
        if path in seen:
            continue
        seen.add(path)
        source = ROOT / path
        if path.endswith(IMAGES):
            files.append(File.generated(config, path, abs_src_path=str(source)))
            continue
        content = source.read_text(encoding="utf-8")
        if path.endswith(".md"):
            files.append(File.generated(config, path, content=content))
            pending += _linked(path, content)
        else:
            files.append(File.generated(config, f"{path}.md", content=_source_page(path, content)))
    return files


def on_page_markdown(markdown: str, page: Page, **kwargs: Any) -> str:
    """Let links to files that are not Markdown lead to the pages made of them."""
    markdown = EVERY_MODULE.sub(lambda found: _modules(found["folder"]), markdown)
    folder = posixpath.dirname(page.file.src_uri)

    def to_page(found: re.Match[str]) -> str:
        path = _in_repository(folder, found["path"])
        suffix = ".md" if path and not path.endswith((".md", *IMAGES)) else ""
        return f"{found['before']}{found['path']}{suffix}{found['after']}"

    return _outside_code(markdown, lambda text: LINK.sub(to_page, text))


def _found(patterns: tuple[str, ...]) -> list[str]:
    """Return paths in the repository, in the order of the patterns and of their names."""
    found = [path for pattern in patterns for path in sorted(ROOT.glob(pattern))]
    return [path.relative_to(ROOT).as_posix() for path in found if _is_page(path)]


def _is_page(path: Path) -> bool:
    """Tell a page from a part of one, which begins with a heading of its second level."""
    return path.suffix != ".md" or path.read_text(encoding="utf-8").startswith(("# ", "<!--"))


def _linked(path: str, markdown: str) -> list[str]:
    """Return the files of the repository that a page links to."""
    folder = posixpath.dirname(path)
    links = [found["path"] for found in LINK.finditer(CODE.sub("", markdown))]
    return [inside for link in links if (inside := _in_repository(folder, link)) is not None]


def _modules(folder: str) -> str:
    """Return what mkdocstrings needs to describe each module of a folder."""
    names = [path.stem for path in sorted((ROOT / folder).glob("*.py"))]
    package = folder.replace("/", ".")
    return "\n\n".join(f"::: {package}.{name}" for name in names if name != "__init__")


def _in_repository(folder: str, link: str) -> str | None:
    path = posixpath.normpath(posixpath.join(folder, link))
    is_inside = not path.startswith(("..", "/")) and (ROOT / path).is_file()
    return path if is_inside else None


def _outside_code(markdown: str, change: Any) -> str:
    """Change the text between pieces of code."""
    parts, end = [], 0
    for found in CODE.finditer(markdown):
        parts += [change(markdown[end : found.start()]), found[0]]
        end = found.end()
    return "".join([*parts, change(markdown[end:])])


def _source_page(path: str, content: str) -> str:
    language = LANGUAGES.get(PurePosixPath(path).suffix, "text")
    text = ""
    if path.startswith("examples/") and path.endswith(".py"):
        text = ast.get_docstring(ast.parse(content)) or ""
        text += f"\n\n```bash\npython {path}\n```\n"
    return (
        f'# {PurePosixPath(path).name}\n\n{text}\n\n````{language} title="{path}"\n{content}````\n'
    )


def _gallery() -> str:
    """Return the page of all examples: what each does, and the pictures of the results."""
    lines = ["# Examples", "", "## Scripts", ""]
    for path in _found(SCRIPTS):
        text = ast.get_docstring(ast.parse((ROOT / path).read_text(encoding="utf-8"))) or ""
        name = PurePosixPath(path).name
        lines.append(f"- [{name}]({name}): {_first_paragraph(text)}")
    lines += ["", "## Results", ""]
    for path in _found(RESULTS):
        content = (ROOT / path).read_text(encoding="utf-8")
        title = content.partition("\n")[0].removeprefix("# ")
        page = posixpath.relpath(path, "examples")
        lines += [f"### [{title}]({page})", ""]
        for picture in PICTURE.finditer(content):
            image = posixpath.join(posixpath.dirname(page), picture["path"])
            lines += [f"[![{picture['text']}]({image})]({page})", ""]
    return "\n".join(lines) + "\n"


def _first_paragraph(text: str) -> str:
    return " ".join(text.partition("\n\n")[0].split())
