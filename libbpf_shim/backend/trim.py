"""Part of the build: modules as a backend loads them, with less to do (backend/startup.py).

What they do stays; what they say about themselves goes: docstrings, annotations, imports that only
annotations use. A dataclass becomes the class that `dataclass` would make of it, written out, and
so does a NamedTuple. What is not understood stays as it is. The source's lines keep their numbers.
"""

from __future__ import annotations

import ast
import copy
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from typing import Any

from libbpf_shim import plain

_ANNOTATIONS = annotations.compiler_flag  # what that import says to the compiler
_RUNTIME = "libbpf_shim.plain"
# What a class may define by itself and `dataclass` would look at
_OWN = {"__init__", "__repr__", "__eq__", "__hash__", "__setattr__", "__delattr__", "__getstate__",
        "__setstate__", "__slots__", "__post_init__", "__match_args__"}
_ANNOTATED = ("NamedTuple", "TypedDict")
_NEEDLESS = ("typing", "collections.abc", "dataclasses", "types", "pathlib")
Defs = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module


def own(text: str, path: str, module: Any, kept: frozenset[str]) -> Any:
    """The code of a module of ours. module: as it is loaded; kept: names that others import of
    it, or ask it for."""
    tree = ast.parse(text, path)
    tree = _Trim(module).visit(tree)
    _drop_imports(tree, kept)
    future = any(map(_future, tree.body))  # then it need not be loaded
    tree.body = [node for node in tree.body if not _future(node)] or [ast.Pass()]
    ast.fix_missing_locations(tree)
    flags = _ANNOTATIONS if future else 0
    return compile(tree, path, "exec", flags=flags, dont_inherit=True)


def foreign(text: bytes, path: str, name: str) -> Any:
    """The code of a module of Python's own, without docstrings (as by -OO). Constants of the
    system's stay numbers, where an enumeration is made of hundreds in case they are shown."""
    tree = ast.parse(text, path)
    for node in ast.walk(tree):
        if isinstance(node, Defs):
            _undocumented(node)
    if name in ("socket", "signal"):
        tree.body = [_numbers(node) for node in tree.body]
    if name == "pathlib":
        tree.body = [_deferred(node) for node in tree.body]
    if name == "glob":  # Python 3.13's pathlib takes a class from it
        late = [_late(node) for node in tree.body]
        tree.body[:0] = ast.parse(f"from {_RUNTIME} import Pattern").body * any(late)
    ast.fix_missing_locations(tree)
    return compile(tree, path, "exec", dont_inherit=True)


def _late(node: ast.stmt) -> bool:
    """NAME = re.compile(...), changed so that the pattern is compiled when it is used."""
    call = node.value if isinstance(node, ast.Assign) else None
    if not isinstance(node, ast.Assign) or not isinstance(call, ast.Call) \
            or ast.unparse(call.func) != "re.compile":
        return False
    none = ast.arguments([], [], None, [], [], None, [])
    node.value = ast.Call(ast.Name("Pattern", ast.Load()), [ast.Lambda(none, call)], [])
    return True


def _numbers(node: ast.stmt) -> ast.stmt:
    """IntEnum._convert_("Name", ...): a Name that leaves what it is given as it is."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        call = node.value
        if isinstance(call.func, ast.Attribute) and call.func.attr == "_convert_":
            assert isinstance(call.args[0], ast.Constant)
            made = ast.parse(f"{call.args[0].value!s} = lambda value: value").body[0]
            return ast.copy_location(made, node)
    return node


def _deferred(node: ast.stmt) -> ast.stmt:
    """from urllib.parse import a function: when it is called."""
    if not isinstance(node, ast.ImportFrom) or node.module != "urllib.parse":
        return node
    (name,) = node.names
    text = (f"def {name.asname or name.name}(*given):\n"
            f" from urllib.parse import {name.name}\n return {name.name}(*given)")
    return ast.copy_location(ast.parse(text).body[0], node)


def _undocumented(node: Defs) -> None:
    first = node.body[0] if node.body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) \
            and isinstance(first.value.value, str):
        node.body[:1] = [] if len(node.body) > 1 else [ast.copy_location(ast.Pass(), first)]


def _future(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


class _Trim(ast.NodeTransformer):
    def __init__(self, module: Any) -> None:
        self._module = module
        self._depth = 0
        self._runtime: set[str] = set()

    def visit_Module(self, node: ast.Module) -> ast.Module:
        _undocumented(node)
        self.generic_visit(node)
        if self._runtime:
            names = [ast.alias(name) for name in sorted(self._runtime)]
            at = next((i for i, n in enumerate(node.body) if not _future(n)), 0)
            node.body.insert(at, ast.ImportFrom(_RUNTIME, names, 0))
        return node

    def visit_If(self, node: ast.If) -> Any:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return [self.visit(one) for one in node.orelse] or ast.copy_location(ast.Pass(), node)
        return self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> Any:
        self.generic_visit(node)
        if not self._depth and _late(node):
            self._runtime.add("Pattern")
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        self.generic_visit(node)
        if node.value is None:
            return ast.copy_location(ast.Pass(), node)
        return ast.copy_location(ast.Assign([node.target], node.value), node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        _undocumented(node)
        node.returns = None
        spread = [one for one in (node.args.vararg, node.args.kwarg) if one]
        for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, *spread):
            arg.annotation = None
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1
        return node

    def visit_Call(self, node: ast.Call) -> Any:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "cast" and len(node.args) == 2:
            return node.args[1]
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> Any:
        bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
        kind = {"IntEnum": (int, "numbers"), "Enum": (str, "names")}.get(" ".join(bases))
        if kind and (rows := self._rows(node, *kind)):
            self._runtime.add(kind[1])
            text = f"{node.name} = {kind[1]}({node.name!r}, __name__, {rows!r})"
            made = ast.parse(text).body[0]
            _place(made, node.lineno)
            return made
        if bases == ["Protocol"] and not node.decorator_list:
            node.bases = []
        if bases == ["NamedTuple"]:
            self._tuple(node)
        elif any(base in _ANNOTATED for base in bases):
            return node
        elif node.decorator_list and not self._depth and not node.bases:
            self._written_out(node)
        if any(_name(one) == "dataclass" for one in node.decorator_list):
            return node  # it reads the annotations, and makes a text in place of none
        _undocumented(node)
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1
        if not node.body:
            node.body.append(ast.Pass())
        return node

    def _rows(self, node: ast.ClassDef, of: type, maker: str) -> tuple[tuple[str, Any], ...]:
        """Of an enumeration of constants alone, if it is the same by plain's maker; else ()."""
        made, rows = getattr(self._module, node.name, None), []
        for row in node.body:
            if isinstance(row, ast.Assign) and isinstance(row.value, ast.Constant) \
                    and type(row.value.value) is of and isinstance(row.targets[0], ast.Name):
                rows.append((row.targets[0].id, row.value.value))
            elif not isinstance(row, ast.Expr | ast.Pass):
                return ()
        if self._depth or node.decorator_list or not isinstance(made, type) \
                or not issubclass(made, Enum) or made.__module__ != self._module.__name__:
            return ()
        same = getattr(plain, maker)(node.name, made.__module__, tuple(rows))
        return tuple(rows) if _look(same) == _look(made) else ()

    def _tuple(self, node: ast.ClassDef) -> None:
        """class X(tuple), with what NamedTuple gives it."""
        rows = [n for n in node.body if isinstance(n, ast.AnnAssign)]
        names = tuple(n.target.id for n in rows if isinstance(n.target, ast.Name))
        values = {n.target.id: n.value for n in rows if n.value and isinstance(n.target, ast.Name)}
        given = [f"{name}=place_{name}" * (name in values) or name for name in names]
        text = (f"__slots__ = ()\n_fields = __match_args__ = {names!r}\n"
                f"def __new__(_cls, {', '.join(given)}):\n"
                f" return _tuple_new(_cls, ({''.join(f'{name}, ' for name in names)}))\n"
                f"_field_defaults = dict(zip({tuple(values)!r}, __new__.__defaults__ or ()))\n"
                "_make, _replace, _asdict = classmethod(make), changed, as_dict\n"
                "__repr__, __getnewargs__ = row, arguments\n"
                + "".join(f"{name} = item({i})\n" for i, name in enumerate(names)))
        text = text.replace("_tuple_new", "tuple.__new__")
        code = _Fill({f"place_{name}": value for name, value in values.items()}).visit(
            ast.parse(text))
        _place(code, node.lineno)
        self._runtime |= {"arguments", "as_dict", "changed", "item", "make", "row"}
        node.bases = [ast.Name("tuple", ast.Load())]
        node.body = [*code.body, *(n for n in node.body if n not in rows)]

    def _written_out(self, node: ast.ClassDef) -> None:
        """Methods in place of the decorator, if it is plain: with slots, no base, nothing of what
        it makes defined by hand, and nobody's base."""
        options = _options(node)
        made = getattr(self._module, node.name, None)
        if options is None or not isinstance(made, type) or not is_dataclass(made) \
                or made.__subclasses__() or made.__module__ != self._module.__name__:
            return
        known = {field.name: field for field in fields(made)}
        values: dict[str, ast.expr | None] = {}
        for row in node.body:
            if isinstance(row, ast.FunctionDef) and row.name in _OWN - {"__post_init__"}:
                return
            if isinstance(row, ast.AnnAssign) and isinstance(row.target, ast.Name) \
                    and row.target.id in known:
                values[row.target.id] = row.value
        if list(values) != list(known) or {"self", "object"} & set(known):
            return
        written = _Written(known, values, options, hasattr(made, "__post_init__"))
        if written.strange:
            return
        for text, expressions in written.methods():
            code = ast.parse(text)
            code = _Fill(expressions).visit(code)
            _place(code, node.lineno)
            node.body += code.body
        node.body = [row for row in node.body if not (
            isinstance(row, ast.AnnAssign) and isinstance(row.target, ast.Name)
            and row.target.id in known)]
        names = "__slots__ = __match_args__" if options["slots"] else "__match_args__"
        slots = ast.parse(f"{names} = {tuple(known)!r}").body
        node.body = [*slots, *node.body]
        node.decorator_list = []
        self._runtime |= written.runtime


def _place(code: ast.AST, line: int) -> None:
    """Everything that was made is on the line of its class."""
    for new in ast.walk(code):
        if isinstance(new, ast.expr | ast.stmt | ast.arg):
            new.lineno = new.end_lineno = line
            new.col_offset = new.end_col_offset = 0


def _name(node: ast.expr) -> str:
    node = node.func if isinstance(node, ast.Call) else node
    return node.id if isinstance(node, ast.Name) else ""


def _options(node: ast.ClassDef) -> dict[str, bool] | None:
    """Of a class that has `dataclass` as its only decorator, with what is understood."""
    if len(node.decorator_list) != 1 or _name(node.decorator_list[0]) != "dataclass":
        return None
    call = node.decorator_list[0]
    given = {word.arg or "": word.value.value for word in call.keywords
             if isinstance(word.value, ast.Constant)} if isinstance(call, ast.Call) else {}
    if set(given) - {"slots", "frozen", "eq"}:
        return None
    return {"frozen": False, "slots": False, "eq": True, **{k: bool(v) for k, v in given.items()}}


def _look(kind: type[Enum]) -> list[object]:
    """What an enumeration is to those who use it."""
    first = next(iter(kind), None)
    look: list[object] = [repr(kind), len(kind), sorted(vars(kind))]
    for key, one in kind.__members__.items():
        look += [key, one.name, one.value, repr(one), str(one), f"{one}", one == one.value,
                 sorted(vars(one))]
    if first is not None:
        look += [kind(first.value) is first, kind[first.name] is first, first in kind,
                 copy.copy(first) is first, hash(first), bool(first)]
    try:
        look.append(kind(1 << 40))
    except (TypeError, ValueError) as error:  # TypeError: it has no members, to later Pythons
        look.append(str(error))
    return look


class _Fill(ast.NodeTransformer):
    """Names of places, filled with expressions."""

    def __init__(self, expressions: dict[str, ast.expr]) -> None:
        self._expressions = expressions

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self._expressions.get(node.id, node)


class _Written:
    """The methods of a dataclass. strange: something is not understood."""

    def __init__(self, known: dict[str, Field[Any]], values: dict[str, ast.expr | None],
                 options: dict[str, bool], post: bool) -> None:
        self._known, self._options, self._post = known, options, post
        self._places: dict[str, ast.expr] = {}
        self.runtime = {"Fields", "shown", "state", "take_state"}
        self.strange = False
        for name, field in known.items():
            value = values[name]
            words = {}
            if isinstance(value, ast.Call) and _name(value) == "field":
                words = {word.arg: word.value for word in value.keywords}
                value = words.get("default")
            factory = words.get("default_factory")
            if (field.default is not MISSING) != (value is not None) \
                    or (field.default_factory is not MISSING) != (factory is not None):
                self.strange = True
            if field.hash is not None or name.startswith("__") \
                    or (not field.init and value is not None) \
                    or (factory is not None and not isinstance(factory, ast.Name)):
                self.strange = True
            if value is not None and not options["slots"]:
                self.strange = True  # it stays an attribute of the class
            if value is not None or factory is not None:
                self._places[f"place_{name}"] = value or factory or ast.Constant(None)

    def methods(self) -> list[tuple[str, dict[str, ast.expr]]]:
        """Texts, and what their places are filled with."""
        known, frozen = self._known, self._options["frozen"]
        out = [(self._init(), self._places)]
        compared = [name for name, field in known.items() if field.compare]
        if self._options["eq"]:
            mine, its = (f"({''.join(f'{who}.{n}, ' for n in compared)})"
                         for who in ("self", "other"))
            out.append((f"def __eq__(self, other):\n"
                        f" if other.__class__ is self.__class__:\n  return {mine} == {its}\n"
                        f" return NotImplemented\n", {}))
            if frozen:
                out.append((f"def __hash__(self):\n return hash({mine})\n", {}))
        if frozen:
            self.runtime |= {"no_delattr", "no_setattr"}
            out.append(("__setattr__ = no_setattr\n__delattr__ = no_delattr\n", {}))
            if self._options["slots"]:
                out.append(("__getstate__ = state\n__setstate__ = take_state\n", {}))
        rows = tuple((name, field.init, field.repr, field.compare, bool(field.kw_only))
                     for name, field in known.items())
        out.append((f"__repr__ = shown\n__dataclass_fields__ = Fields({rows!r})\n", {}))
        if any(not field.init or field.kw_only for field in known.values()):
            given = tuple(n for n, field in known.items() if field.init and not field.kw_only)
            out.append((f"__match_args__ = {given!r}", {}))
        return out

    def _init(self) -> str:
        parameters, words, body = ["self"], list[str](), []
        for name, field in self._known.items():
            has = field.default_factory is not MISSING
            if field.init:
                given = f"=place_{name}" * (f"place_{name}" in self._places)
                default = "=Fields" if has else given
                (words if field.kw_only else parameters).append(name + default)
            elif not has:
                continue
            made = f"place_{name}()"
            value = name if not has else made if not field.init else \
                f"{made} if {name} is Fields else {name}"
            body.append(f"object.__setattr__(self, {name!r}, {value})" if self._options["frozen"]
                        else f"self.{name} = {value}")
        if self._post:
            body.append("self.__post_init__()")
        parameters += ["*", *words] if words else []
        return f"def __init__({', '.join(parameters)}):\n " + "\n ".join(body or ["pass"]) + "\n"


def _drop_imports(tree: ast.Module, kept: frozenset[str]) -> None:
    """Imports of a module's that nothing uses any more, but for what others take from it."""
    tree.body = [node for node in tree.body if not _type_variable(node, tree)]
    used = set(kept)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            used.add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            used.add(node.value)  # __all__
    body: list[ast.stmt] = []
    for node in tree.body:
        if isinstance(node, ast.ImportFrom | ast.Import) and not _future(node):
            node.names = [one for one in node.names
                          if (one.asname or one.name.partition(".")[0]) in used]
            if not node.names:
                continue
        body.append(node)
    tree.body = body or [ast.Pass()]


def _type_variable(node: ast.stmt, tree: ast.Module) -> bool:
    """T = TypeVar(...), and only annotations had use for T."""
    if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Call) \
            or _name(node.value) != "TypeVar" or not isinstance(node.targets[0], ast.Name):
        return False
    name = node.targets[0].id
    return sum(isinstance(one, ast.Name) and one.id == name for one in ast.walk(tree)) == 1
