"""What a backend takes from the build (libbpf_shim/backend/startup.py, trim.py)."""

from __future__ import annotations

import ast
import copy
import dataclasses
import importlib
import marshal
import os
import pickle
import re
import shutil
import subprocess
import sys
from importlib.util import MAGIC_NUMBER
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from libbpf_shim import plain
from libbpf_shim.backend import startup, trim
from libbpf_shim.compiled import owns

ROOT = Path(__file__).resolve().parents[2]
# What a backend has loaded by the time it has attached a uprobe.
LOADED = ("libbpf_shim.backend.server", "libbpf_shim.btf.check", "libbpf_shim.attach.keeper",
          "libbpf_shim.attach.deliver")


def backend(code: str, *options: str, root: Path = ROOT) -> str:
    """Stdout of a process of its own, as a backend begins."""
    begin = ("import sys; sys.path.insert(0, sys.argv[1])\n"
             "from libbpf_shim.backend import startup\n")
    done = subprocess.run([sys.executable, "-I", *options, "-c", begin + code, str(root)],
                          capture_output=True, text=True, timeout=60)
    assert not done.returncode, done.stderr
    return done.stdout


def kept() -> startup.Kept:
    found = startup.Kept.read()
    assert found, f"{startup.FILE} is not built: make build"
    return found


def test_a_backend_takes_its_modules_from_the_file() -> None:
    said = backend(f"""
startup.install()
for name in {LOADED!r}:
    __import__(name)
for name, module in list(sys.modules.items()):
    if name.startswith("libbpf_shim.") and (module.__file__ or "").endswith(".py"):
        if not isinstance(module.__spec__.loader, startup.Kept):
            print(name)
""", "-S")
    left = {name for name in said.split() if not owns(name)}
    assert left == {"libbpf_shim.compiled", "libbpf_shim.backend", "libbpf_shim.backend.startup"}


def first_line(root: Path, probe: str) -> list[str]:
    """The line that starts a backend, with something else behind it than its main()."""
    text = (ROOT / "csrc/surface/spawn.c").read_text()
    text = text[text.index("code[] =") : text.index("main()\";")] + 'main()"'
    parts = re.findall(r'"((?:[^"\\]|\\.)*)"', text)
    line = "".join(part.encode().decode("unicode_escape") for part in parts)
    assert line.endswith("import main; main()")
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", line.removesuffix("main()") + probe, str(root)],
        capture_output=True, text=True, timeout=60)
    assert not done.returncode, done.stderr
    return done.stdout.splitlines()


FIRST = ("compiled", "__init__", "backend/__init__", "backend/startup", "backend/main")
LOOKED = """
from libbpf_shim.backend import startup
print(any(path.startswith(sys.argv[1]) for path in sys.path_importer_cache))
print(startup.FIRST[0])
for name in ("compiled", "backend", "backend.startup", "backend.main"):
    print(sys.modules[f"libbpf_shim.{name}"].__file__)
"""


def test_the_first_modules_are_loaded_without_a_look_into_folders() -> None:
    paths = [f"{ROOT}/libbpf_shim/{name}.py" for name in FIRST if name != "__init__"]
    assert first_line(ROOT, LOOKED) == ["False", "libbpf_shim.backend.share", *paths]


def test_first_modules_that_were_changed_are_loaded_and_that_were_copied_are_not(
    tmp_path: Path
) -> None:
    package = tmp_path / "libbpf_shim"
    (package / "backend").mkdir(parents=True)
    for name in (*FIRST, "backend/boot"):  # with a time of its own
        shutil.copyfile(ROOT / f"libbpf_shim/{name}.py", package / f"{name}.py")
    (package / "_lib").mkdir()
    boot = package / "_lib" / Path(startup.BOOT).name
    shutil.copyfile(startup.BOOT, boot)
    assert first_line(tmp_path, LOOKED)[:2] == ["False", "libbpf_shim.backend.share"]
    changed = package / "backend/startup.py"
    text = changed.read_text()
    changed.write_text(text.replace('FIRST = ("libbpf_shim.', 'FIRST = ("libbpf-shim.'))
    assert first_line(tmp_path, LOOKED)[:2] == ["True", "libbpf-shim.backend.share"]
    changed.write_text(text)
    assert first_line(tmp_path, LOOKED)[0] == "False"
    for content in (b"", MAGIC_NUMBER, b"\0\0\0\0" + boot.read_bytes()[4:]):
        boot.write_bytes(content)
        assert first_line(tmp_path, LOOKED)[0] == "True"


def test_what_most_loaders_do_not_need_is_not_loaded_with_the_backend() -> None:
    said = backend(f"""
startup.install()
startup.quiet()
for name in {LOADED!r}:
    __import__(name)
for name in ("libbpf_shim.isa.insn", "libbpf_shim.jit.emit", "libbpf_shim.verifier.state",
             "libbpf_shim.token", "json", "capstone", "typing", "site", "sre_compile",
             "re._compiler", "copy"):
    print(name * (name in sys.modules), end="")
""", "-S")
    assert said == ""


def test_what_is_loaded_later_is_whole() -> None:
    said = backend("""
startup.install()
import dataclasses, inspect, re, shutil, subprocess, tempfile, traceback, urllib.parse
from dataclasses import dataclass, field, replace
from tempfile import gettempdir
print(type(inspect) is type(sys), inspect.signature(lambda a, b=1: 0), type(inspect) is type(sys))
try:
    1 / 0
except ZeroDivisionError:
    print(traceback.format_exc().splitlines()[-1])
print(urllib.parse.urlsplit("http://[::1]/x").hostname)
print(subprocess.run(["true"]).returncode, gettempdir() == tempfile.gettempdir())
print(shutil.which("true") != "", sys.modules["shutil"] is shutil, shutil.__spec__.name)
@dataclass(frozen=True)
class Made:
    a: int
    b: list = field(default_factory=list)
print(replace(Made(1), a=2), dataclasses.fields(Made)[0].name, re.sub("a", "b", "a"))
from re import _compiler
from pathlib import Path
print(Path("/a b").as_uri(), Path("/x.py").match("*.py"))
""")
    assert said.splitlines() == [
        "False (a, b=1) True", "ZeroDivisionError: division by zero", "::1",
        "0 True", "True True shutil", "Made(a=2, b=[]) a b", "file:///a%20b True"]


def test_what_is_installed_is_found_without_site() -> None:
    said = backend("startup.install(); import _cffi_backend, capstone; "
                   "print('site' in sys.modules)\n"
                   "try:\n    import there_is_no_such_module\n"
                   "except ImportError:\n    print('site' in sys.modules)", "-S")
    assert said.split() == ["False", "True"]


def test_constants_of_the_system_are_their_numbers() -> None:
    names = ("socket.AF_UNIX, socket.SOCK_STREAM, socket.SCM_RIGHTS, socket.MSG_PEEK, "
             "signal.SIGTERM, signal.SIG_DFL, signal.getsignal(signal.SIGTERM)")
    code = f"import signal, socket; print([int(one) for one in ({names})])\n" \
           "def late(*given): pass\n" \
           "for one in (late, signal.SIG_IGN, late):\n" \
           "    print(signal.signal(signal.SIGALRM, one) in (late, 0, 1))\n" \
           "print(signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1]) == set())\n" \
           "a, b = socket.socketpair(); print(a.family == socket.AF_UNIX, a.type == b.type)"
    assert backend("startup.install();" + code) == backend(code)


def test_what_paths_take_from_glob_is_had_without_patterns() -> None:
    import glob

    module = ModuleType("glob")
    text = Path(str(glob.__file__)).read_bytes()
    exec(trim.foreign(text, str(glob.__file__), "glob"), vars(module))
    assert isinstance(module.magic_check, plain.Pattern)
    assert module.escape("[a]*") == glob.escape("[a]*") == "[[]a][*]"
    assert module.escape(b"?") == b"[?]" and module.has_magic("a*") and not module.has_magic(b"a")


def test_a_quiet_process_does_not_load_what_logs() -> None:
    said = backend("""
startup.install(); startup.quiet()
import logging
log = logging.getLogger("a")
log.warning("%s", "x"); log.exception("y"); log.isEnabledFor(logging.DEBUG) and print("no")
logging.getLogger("a").setLevel(logging.DEBUG)
""")
    assert said == ""


def test_the_decoder_is_the_same_without_other_machines() -> None:
    decode = """
import sys
from libbpf_shim.rewrite import decode
code = bytes.fromhex("f30f1efa554889e5488b05b8130000ff15a0130000e9fb0f0000f0480fc111c3")
for insn in decode.instructions(code, 0x1000):
    print(decode.displaced(insn), insn.disp, insn.regs_access(), len(insn.operands))
"""
    whole, part = backend(decode), backend("startup.install()\n" + decode + """
assert "capstone.arm64_const" not in sys.modules
""")
    assert whole == part and len(part.splitlines()) == 8


@pytest.mark.parametrize("content", [
    b"", b"\0\0\0\0" + marshal.dumps({}), MAGIC_NUMBER + b"{",
    MAGIC_NUMBER + marshal.dumps(["text"]), MAGIC_NUMBER,
], ids=["empty", "of another Python", "cut", "something else", "nothing"])
def test_a_file_that_is_not_its_own_is_as_if_it_was_not_there(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "start"
    file.write_bytes(content)
    monkeypatch.setattr(startup, "FILE", str(file))
    assert startup.Kept.read() is None


def test_a_source_that_was_changed_is_loaded_and_one_that_was_copied_is_not(
    tmp_path: Path
) -> None:
    package = tmp_path / "libbpf_shim"
    for name in ("__init__.py", "compiled.py", "errors.py", "backend/__init__.py",
                 "backend/startup.py", "keep.py", "plain.py"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / "libbpf_shim" / name, package / name)  # with a time of its own
    (package / "_lib").mkdir()
    shutil.copyfile(startup.FILE, package / "_lib" / Path(startup.FILE).name)
    text = (package / "keep.py").read_text()
    assert "DIGEST = 32" in text
    (package / "keep.py").write_text(text.replace("DIGEST = 32", "DIGEST = 23"))
    said = backend("""
startup.install()
from libbpf_shim import errors, keep
print(isinstance(errors.__spec__.loader, startup.Kept), errors.__file__)
print(isinstance(keep.__spec__.loader, startup.Kept), keep.DIGEST)
""", root=tmp_path)
    assert said.splitlines() == [f"True {package}/errors.py", "False 23"]


# The same by the build's file

SOURCE = '''
"""A module."""
from __future__ import annotations
import re
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, cast
from collections.abc import Callable
if TYPE_CHECKING:
    from nowhere import nothing
T = TypeVar("T")
WORD = re.compile(r"(a+)b", re.IGNORECASE)
LIMIT: int = 3

class Number(IntEnum):
    """Doc."""
    ZERO = 0
    ONE = 1
    UNIT = 1

class Word(Enum):
    """Doc."""
    FIRST = "first"
    SECOND = "second"

class Computed(IntEnum):
    ONE = 1 + LIMIT

class Speaks(Protocol):
    """Something."""
    def say(self) -> str: ...

@dataclass(frozen=True, slots=True)
class Frozen:
    """Doc."""
    a: int
    b: str = "x"
    c: list[int] = field(default_factory=list, compare=False)
    d: Any = field(default=LIMIT, repr=False)
    def twice(self, by: int = 2) -> int:
        """Doc."""
        here: int = self.a
        return here * by

@dataclass(slots=True)
class Open(object if False else object):
    a: int

@dataclass(slots=True)
class Changing:
    a: int
    b: dict[str, int] = field(default_factory=dict)
    c: int = field(init=False, default_factory=int)
    e: int = field(default=1, kw_only=True)
    def __post_init__(self) -> None:
        self.c += self.a

@dataclass(eq=False, slots=True)
class Same:
    a: int

@dataclass(frozen=True)
class Loose:
    a: int

@dataclass(frozen=True, slots=True)
class Empty:
    pass

@dataclass(slots=True)
class Base:
    a: int

@dataclass(slots=True)
class Derived(Base):
    b: int = 2

class Row(NamedTuple):
    """Doc."""
    a: int
    b: str = "y"
    @property
    def both(self) -> str: return f"{self.a}{self.b}"

def plus(a: int, *more: int, b: int = 1, **words: int) -> int:
    """Doc."""
    return cast("int", a + b) + len(more)
'''


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModuleType, ModuleType]:
    """A module as it is written, and as the build makes it."""
    path = tmp_path_factory.mktemp("trim") / "trimmed.py"
    path.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location("trimmed", path)
    assert spec and spec.loader
    whole, part = importlib.util.module_from_spec(spec), importlib.util.module_from_spec(spec)
    sys.modules["trimmed"] = whole  # where dataclasses look for names
    spec.loader.exec_module(whole)
    exec(trim.own(SOURCE, str(path), whole, frozenset()), vars(part))
    return whole, part


CASES = ("Frozen(1)", "Frozen(1, 'z', [2], d=4)", "Open(1)", "Changing(2)",
         "Changing(2, {'k': 1}, e=5)", "Same(1)", "Loose(1)", "Empty()", "Derived(1)", "Row(1)",
         "Row(1, 'q')")


@pytest.mark.parametrize("case", CASES)
def test_a_class_that_is_written_out_does_what_the_decorator_has_it_do(
    case: str, pair: tuple[ModuleType, ModuleType]
) -> None:
    def facts(module: ModuleType) -> list[Any]:
        one, other = eval(case, vars(module)), eval(case, vars(module))
        kind, found = type(one), []
        names = [f.name for f in dataclasses.fields(one)] if dataclasses.is_dataclass(one) \
            else list(one._fields)
        found += [names, repr(one), one == other, one == 1, kind.__match_args__]
        found += [getattr(kind, "__slots__", None), hasattr(one, "__dict__"), kind.__module__]
        found.append([getattr(one, name) for name in names])
        hashed: Any = kind.__hash__
        found.append(hashed is None or hashed is object.__hash__)
        for act in (lambda: setattr(one, names[0], 9), lambda: delattr(one, names[0]),
                    lambda: kind(*range(9)), lambda: kind(zz=1),
                    lambda: hash(one) == hash(other), lambda: copy.copy(one) == one,
                    lambda: dataclasses.replace(other, a=7).a, lambda: dataclasses.asdict(other),
                    lambda: one._replace(a=3), lambda: one.both):
            try:
                found.append(act())
            except (AttributeError, TypeError, IndexError) as error:
                found.append(type(error).__name__)
        return found

    whole, part = pair
    assert facts(part) == facts(whole)


def test_frozen_objects_are_pickled_by_one_and_read_by_the_other(
    pair: tuple[ModuleType, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, part = pair
    for writer, reader in ((whole, part), (part, whole)):
        monkeypatch.setitem(sys.modules, "trimmed", writer)
        data = pickle.dumps(writer.Frozen(1, "z", [2], 4))
        monkeypatch.setitem(sys.modules, "trimmed", reader)
        assert repr(pickle.loads(data)) == "Frozen(a=1, b='z', c=[2])"


def test_an_enumeration_is_as_python_makes_it(
    pair: tuple[ModuleType, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, part = pair
    tree = ast.unparse(trim._Trim(whole).visit(ast.parse(SOURCE)))
    assert "Number = numbers(" in tree and "class Computed(IntEnum)" in tree
    assert "Word = names(" in tree
    for name in ("Number", "Computed", "Word"):
        assert trim._look(getattr(part, name)) == trim._look(getattr(whole, name))
    number = part.Number
    assert number.UNIT is number.ONE and [*number] == [0, 1] and number(1).name == "ONE"
    for wrong in (lambda: number(9), lambda: number["TWO"], lambda: setattr(number, "ONE", 2)):
        with pytest.raises((ValueError, KeyError, AttributeError)):
            wrong()
    monkeypatch.setitem(sys.modules, "trimmed", part)
    for one in (number.ONE, part.Word.SECOND):
        assert pickle.loads(pickle.dumps(one)) is one and copy.deepcopy(one) is one


def test_the_rest_of_a_module_stays(pair: tuple[ModuleType, ModuleType]) -> None:
    _, part = pair
    assert part.plus(1, 2, 3) == 4 and part.LIMIT == 3 and part.Frozen(2).twice() == 4
    assert part.WORD.match("AAb")[1] == "AA" and part.WORD.pattern == "(a+)b"
    assert part.Row(1).both == "1y" and part.Frozen(1).d == 3
    first, second = part.Changing(1), part.Changing(1)
    assert first.b is not second.b
    for gone in ("T", "TypeVar", "Callable", "Any", "Protocol", "NamedTuple", "cast"):
        assert not hasattr(part, gone), gone
    line = SOURCE[: SOURCE.index("def plus")].count("\n") + 1
    assert part.plus.__code__.co_firstlineno == line


def test_every_class_of_ours_is_written_out_or_left_on_purpose() -> None:
    """What a backend has loaded at its start has no decorator left: it would load dataclasses."""
    rows, left = kept().rows, []
    loaded = backend(f"""
startup.install()
for name in {LOADED!r}:
    __import__(name)
print(*sys.modules)
""").split()
    for name in sorted({*rows, *loaded} - ({*rows} ^ {*loaded})):
        if not name.startswith("libbpf_shim."):
            continue
        path = ROOT / rows[name][0]
        module = importlib.import_module(name)
        tree = trim._Trim(module).visit(ast.parse(path.read_text()))
        left += [f"{name}.{node.name}" for node in ast.walk(tree)
                 if isinstance(node, ast.ClassDef) and node.decorator_list
                 and "dataclass" in ast.unparse(node.decorator_list[0])]
    assert left == []


def test_the_file_lies_where_the_library_does() -> None:
    assert os.path.dirname(startup.FILE) == str(ROOT / "libbpf_shim" / "_lib")


def test_a_backend_has_room_for_descriptors_before_it_has_threads() -> None:
    said = backend("""
import os, resource
from libbpf_shim.backend import main
def size():
    text = open("/proc/self/status").read()
    return int(text.split("FDSize:")[1].split()[0])
for most in (4096, 100, 8):
    resource.setrlimit(resource.RLIMIT_NOFILE, (8, most))
    before = os.listdir("/proc/self/fd")
    main.more_descriptors()
    print(os.listdir("/proc/self/fd") == before, resource.getrlimit(resource.RLIMIT_NOFILE),
          size() >= 4096)
""")
    assert said.splitlines() == [f"True ({most}, {most}) True" for most in (4096, 100, 8)]
