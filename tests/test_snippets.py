"""The snippets of README.md, CONTRIBUTING.md and docs run as they stand, page by page, in order.

A page is run in an empty folder. Its Python blocks share one namespace. A block whose first line is
a comment with a file's name is written to that file. In a shell block, lines that begin with
`posttrain` or `python` are run, and every other line is an error. A comment before a block changes
that: `<!-- snippet: shown only, REASON -->` or `<!-- snippet: with max_steps=2 -->`, which adds
arguments to each `posttrain` command.
"""

from __future__ import annotations

import re
import runpy
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from posttrain import registry
from posttrain.cli import main
from posttrain.sandbox.pool import why_not

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "guides").glob("*.md")),
]
SHELLS = ("sh", "shell", "bash", "console")
_COMMENT = re.compile(r"^<!-- snippet: (?P<text>.*?) -->\s*$", re.MULTILINE)
_BLOCK = re.compile(
    r"^(?:<!-- snippet: (?P<note>.*?) -->\s*\n\s*)?"
    r"(?P<fence>```+)(?P<language>\w+)[ \t]*\n(?P<body>.*?)^(?P=fence)[ \t]*$",
    re.MULTILINE | re.DOTALL,
)
_INDENTED = re.compile(
    r"(?:(?<=\n\n)|\A)(?P<body>(?: {4}.*\n(?:\n+(?= {4}))?)+)",
)
_FILE = re.compile(r"^#\s*(?P<name>[\w./-]+\.\w+)\s*$")


@dataclass(frozen=True)
class Snippet:
    """A block of code: its language, its text, the line where it begins, and its comment."""

    language: str
    text: str
    line: int
    note: str = ""

    @property
    def shown_only(self) -> bool:
        """Whether it is not run."""
        return self.note.startswith("shown only")

    @property
    def more_arguments(self) -> list[str]:
        """What is added to its commands."""
        return shlex.split(self.note.removeprefix("with ")) if self.note.startswith("with ") else []

    @property
    def file(self) -> str:
        """The file that it is written to; "" where it is run."""
        match = _FILE.match(self.text.partition("\n")[0])
        return match["name"] if match else ""


def snippets(text: str) -> list[Snippet]:
    """The Python and shell blocks, and the files, of a page, in their order.

    Indented blocks count as Python where they begin with an import.
    """
    blocks, rest = [], text
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("body")) + 1
        blocks.append(Snippet(match["language"], match["body"], line, match["note"] or ""))
        gap = "\n" * match[0].count("\n")
        rest = rest.replace(match[0], gap, 1)
    for match in _INDENTED.finditer(rest):
        body = textwrap.dedent(match["body"])
        if re.match(r"(?:from|import) \w", body):
            line = rest.count("\n", 0, match.start("body")) + 1
            blocks.append(Snippet("python", body, line))
    wanted = [b for b in blocks if b.language in ("python", *SHELLS) or b.file]
    return sorted(wanted, key=lambda block: block.line)


def run_python(snippet: Snippet, page: Path, namespace: dict[str, Any]) -> None:
    """Run a block in a page's namespace; a traceback names the page and its line."""
    padded = "\n" * (snippet.line - 1) + snippet.text
    exec(compile(padded, str(page), "exec"), namespace)


def run_shell(snippet: Snippet) -> None:
    """Run the commands of a block in this process."""
    text = snippet.text.replace("\\\n", " ")
    for line in text.splitlines():
        line, redirect, target = line.partition(" > ")
        words = shlex.split(line.removeprefix("$ "), comments=True)
        if not words:
            continue
        name, *arguments = words
        if name == "python":
            runpy.run_path(arguments[0], run_name="__main__")
            continue
        assert name == "posttrain", f"line {snippet.line}: {line!r} is not run; mark the block"
        status = _status(arguments + snippet.more_arguments, target.strip() if redirect else "")
        assert status == 0, f"{line!r} ended with status {status}"


def _status(arguments: list[str], output: str) -> int:
    import contextlib

    with contextlib.ExitStack() as stack:
        if output:
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(_open(output))))
        try:
            return main(arguments)
        except SystemExit as stop:  # --help
            return int(stop.code or 0)


def _open(path: str) -> Any:
    return Path(path).open("w", encoding="utf-8")


@pytest.fixture
def page_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and registries that forget what the page registers."""
    monkeypatch.chdir(tmp_path)
    for each in registry.REGISTRIES.values():
        for name in each.names():
            each.get(name)  # imported now, the built-in functions outlive the copies below
        for attribute in ("_plugins", "_functions"):
            value = getattr(each, attribute)
            monkeypatch.setattr(each, attribute, type(value)(value))
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    return tmp_path


def _parameter(page: Path) -> Any:
    name = str(page.relative_to(ROOT))
    return pytest.param(page, id=name)


@pytest.mark.parametrize("page", [_parameter(page) for page in PAGES])
def test_the_snippets_of_a_page_run(page: Path, page_folder: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "__page__"}
    if page.stem == "code_rewards" and why_not():
        pytest.skip(f"no sandbox: {why_not()}")
    for snippet in snippets(page.read_text(encoding="utf-8")):
        if snippet.shown_only:
            continue
        if snippet.file:
            path = page_folder / snippet.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(snippet.text, encoding="utf-8")
        elif snippet.language == "python":
            run_python(snippet, page, namespace)
        else:
            run_shell(snippet)


@pytest.mark.parametrize("page", [_parameter(page) for page in PAGES])
def test_comments_on_snippets_are_known_and_stand_before_a_block(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    used = [snippet.note for snippet in snippets(text) if snippet.note]
    assert used == [match["text"] for match in _COMMENT.finditer(text)]
    for note in used:
        assert re.match(r"shown only, \w|with \w", note), note


def test_every_guide_runs_something_on_the_embedded_model() -> None:
    for page in PAGES[2:]:
        found = [s for s in snippets(page.read_text(encoding="utf-8")) if not s.shown_only]
        assert any("embedded" in snippet.text for snippet in found), page


def test_blocks_are_read_in_order_with_their_comments() -> None:
    page = (
        "Text\n\n    import a\n\n    b()\n\nMore\n\n<!-- snippet: with x=1 -->\n"
        "```sh\nposttrain ls\n```\n\n```yaml\n# r.yaml\nmethod: sft\n```\n\n```text\nno\n```\n"
    )
    found = snippets(page)
    assert [(s.language, s.line) for s in found] == [("python", 3), ("sh", 11), ("yaml", 15)]
    assert found[0].text == "import a\n\nb()\n"
    assert found[1].more_arguments == ["x=1"] and found[2].file == "r.yaml"


def test_a_shell_line_that_cannot_be_run_is_an_error() -> None:
    with pytest.raises(AssertionError, match="pip install"):
        run_shell(Snippet("sh", "pip install posttrain\n", 1))
