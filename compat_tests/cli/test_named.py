"""What README.md and docs/ name is there: files, tests, headings, make's targets, verbs, options
and variables."""

from __future__ import annotations

import argparse
import functools
import re
from collections.abc import Iterator
from pathlib import Path, PurePath

import pytest

from libbpf_shim.cli import parser

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_OURS = ("libbpf_shim", "csrc", "compat_tests", "tools")
# and the name that it is to be saved under
_FENCED = re.compile(r"(^`[^`\n]*`:\n\n)?^```.*?^```", re.M | re.S)
_FILE = re.compile(r"(?<![\w./$*<-])((?:\w[\w.-]*/)*)(\w[\w-]*\.(?:py|[chS]|md|sh|toml))\b"
                   r"(?![./*])")
# of the machine, of the reader, of others' sources
_FOREIGN = re.compile(r"linux/|bpf/|sys/|x\.sh$|FILE\.h$|bpf_endian\.h$")

page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@functools.cache
def files() -> frozenset[str]:
    found = [*ROOT.iterdir(), *(path for name in (*_OURS, "docs")
                                for path in (ROOT / name).rglob("*"))]
    return frozenset(str(path.relative_to(ROOT)) for path in found
                     if path.is_file() and "__pycache__" not in path.parts)


@functools.cache
def source() -> str:
    return "\n".join((ROOT / name).read_text() for name in sorted(files())
                     if PurePath(name).suffix in (".py", ".c", ".h", ".S"))


@functools.cache
def definitions() -> frozenset[str]:
    return frozenset(re.findall(r"^ *(?:async )?def (test_\w+)", source(), re.M))


def slug(heading: str) -> str:
    """As GitHub has it."""
    return re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-")


def prose(page: Path) -> str:
    return _FENCED.sub("", page.read_text())


@page
def test_files(page: Path) -> None:
    missing = []
    for folder, name in _FILE.findall(re.sub(r"\]\([^)]*\)", "", prose(page))):
        path = folder + name
        there = any(one.endswith(f"/{path}") or one == path or name[0] == "_" and
                    one.endswith(name) for one in files())  # `packet.c`, `_skb.c`
        if not there and not _FOREIGN.search(path):
            missing.append(path)
    assert not missing


@page
def test_folders(page: Path) -> None:
    named = re.findall(rf"`((?:{'|'.join(_OURS)}|docs)/[\w/]*)`", prose(page))
    assert not [one for one in named if not (ROOT / one).is_dir()]


@page
def test_tests(page: Path) -> None:
    modules = {PurePath(name).stem for name in files()}
    named = set(re.findall(r"\btest_\w+", prose(page))) - {"test_run"}
    assert not named - modules - definitions()


@page
def test_links(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        path, _, heading = link.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or heading and heading not in map(
                slug, re.findall(r"^#+ (.*)$", there.read_text(), re.M)):
            broken.append(link)
    assert not broken


@page
def test_targets_of_make(page: Path) -> None:
    (named,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)
    said = re.findall(r"(?:`|^\t\$? ?)make ([a-z-]+)", page.read_text(), re.M)
    assert not set(said) - set(named.split())


@page
def test_variables(page: Path) -> None:
    assert not [name for name in re.findall(r"\bLIBBPF_[A-Z_]+\b", page.read_text())
                if name not in source()]


every_verb = functools.cache(parser)


def inner(of: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return {name: one for action in of._actions if isinstance(action, argparse._SubParsersAction)
            for name, one in action.choices.items()}


def commands(text: str) -> Iterator[list[str]]:
    """Of each `bpf-shim ...` in code the words, as far as they are bpf-shim's."""
    code = re.findall(r"`([^`\n]+)`|^(?:\t|\$ )?(.*bpf-shim .*)$", text, re.M)
    for line in (a or b for a, b in code):
        for words in re.findall(r"(?:^|[ (])bpf-shim ([a-z][^|;&)>#]*)", line):
            yield words.split(" -- ")[0].split()


def unknown(words: list[str]) -> list[str]:
    """Verbs and options that there are not."""
    at, options = every_verb(), set[str]()
    for word in words:
        below = inner(at)
        if below:
            if word not in below and re.fullmatch(r"[a-z]+", word):
                return [word]
            at = below.get(word, at)
            options = {text for action in at._actions for text in action.option_strings}
        elif re.match(r"--?[a-z]", word):
            if word.rstrip(",.") not in options:
                return [word]
        elif words[0] == "run" and not re.match(r"[A-Z$/]|\w+\.", word):
            break  # a command of the reader's
    return []


@page
def test_verbs_and_options(page: Path) -> None:
    code = "\n".join(re.findall(r"`[^`\n]+`|^\t.*$", prose(page), re.M)
                     + [one.group() for one in _FENCED.finditer(page.read_text())])
    assert not [(words, wrong) for words in commands(code) if (wrong := unknown(words))]


def test_what_is_not_there_is_found() -> None:
    """These tests would see it."""
    assert unknown(["lint"]) == ["lint"] and unknown(["policy", "chek", "x"]) == ["chek"]
    assert unknown(["run", "--polcy", "x"]) == ["--polcy"]
    assert _FILE.findall("`csrc/none.c`") == [("csrc/", "none.c")]
    assert not unknown(["run", "--policy", "FILE", "ls", "--color"])
