"""Checks examples that cannot run here, because they need a GPU or the hub: what they name has to exist.

Imports are done, what is made of them is followed (`grit = GritLM(...)`, `grit.embed_queries(...)`), and the keyword
arguments of every call that can be followed are compared with its signature.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import importlib.util
import inspect
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from grit_integrations import GritLM


@dataclass(frozen=True, slots=True)
class _Made:
    """Something of a class that is known."""

    of: type


_UNKNOWN = object()
_APART = frozenset({"mteb"})  # of an extra that the suite does not install, since it is large


def _module(name: str) -> object:
    """Import a module that an example names; what an extra apart would install need not be there."""
    top, *_ = name.split(".")
    if top in _APART and importlib.util.find_spec(top) is None:
        return _UNKNOWN
    return importlib.import_module(name)


def unresolved(code: str) -> list[str]:
    """Return what an example names that does not exist: modules, attributes, variables and keyword arguments."""
    reader = _Reader()
    reader.visit(ast.parse(code))
    return reader.problems


@dataclass(slots=True)
class _Reader(ast.NodeVisitor):
    names: dict[str, object] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.names[alias.asname or alias.name.split(".")[0]] = _module(alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert node.module is not None
        module = _module(node.module)
        for alias in node.names:
            if module is not _UNKNOWN and not hasattr(module, alias.name):
                self.problems.append(f"{node.module} has no {alias.name}")
            self.names[alias.asname or alias.name] = getattr(module, alias.name, _UNKNOWN)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        value = self.value(node.value)
        for target in node.targets:
            for name in _names_in(target):
                self.names[name] = value if isinstance(target, ast.Name) else _UNKNOWN

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store):
            self.names[node.id] = _UNKNOWN
        elif node.id not in self.names and not hasattr(builtins, node.id):
            self.problems.append(f"{node.id} is not defined")

    def visit_For(self, node: ast.For) -> None:
        for part in (node.target, node.iter, *node.body, *node.orelse):
            self.visit(part)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.generic_visit(node)
        base = self.value(node.value)
        if base is not _UNKNOWN and not _has(base, node.attr):
            self.problems.append(f"{ast.unparse(node.value)} has no {node.attr}")

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        called = self.value(node.func)
        allowed = _keywords(called)
        if allowed is None:
            return
        unknown = [word.arg for word in node.keywords if word.arg is not None and word.arg not in allowed]
        self.problems += [f"{ast.unparse(node.func)} takes no {name}" for name in unknown]

    def value(self, node: ast.expr) -> object:
        """Return what an expression stands for, as far as it can be followed."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id, _UNKNOWN)
        if isinstance(node, ast.Attribute):
            base = self.value(node.value)
            return _UNKNOWN if base is _UNKNOWN else _attribute(base, node.attr)
        if isinstance(node, ast.Call):
            return _result(self.value(node.func))
        return _UNKNOWN


def _names_in(target: ast.expr) -> Iterator[str]:
    yield from (node.id for node in ast.walk(target) if isinstance(node, ast.Name))


def _has(base: object, name: str) -> bool:
    if isinstance(base, _Made):
        return hasattr(base.of, name) or name in getattr(base.of, "model_fields", {}) or name in _annotated(base.of)
    return hasattr(base, name)


def _annotated(kind: type) -> set[str]:
    return {name for each in kind.__mro__ for name in getattr(each, "__annotations__", {})}


def _attribute(base: object, name: str) -> object:
    if not isinstance(base, _Made):
        return getattr(base, name, _UNKNOWN)
    found = inspect.getattr_static(base.of, name, _UNKNOWN)
    return getattr(base.of, name) if inspect.isroutine(found) or isinstance(found, classmethod) else _UNKNOWN


def _result(called: object) -> object:
    if inspect.isclass(called):
        return _Made(called)
    owner = getattr(called, "__self__", None)
    if inspect.isclass(owner) and _hints(called).get("return") is typing.Self:
        return _Made(owner)
    returned = _hints(called).get("return")
    return _Made(returned) if inspect.isclass(returned) else _UNKNOWN


def _hints(called: object) -> dict[str, Any]:
    try:
        return typing.get_type_hints(called)
    except (TypeError, NameError):
        return {}


def _keywords(called: object) -> set[str] | None:
    """Return the names of the keyword arguments that a callable takes; `None` if that cannot be told."""
    if called is _UNKNOWN or not callable(called):
        return None
    try:
        signature = inspect.signature(called)
    except (TypeError, ValueError):
        return None
    names = {*signature.parameters, *getattr(called, "model_fields", {})}
    others = [each.name for each in signature.parameters.values() if each.kind is each.VAR_KEYWORD]
    if not others:
        return names
    annotated = _hints(called.__init__ if inspect.isclass(called) else called).get(others[0])
    if typing.get_origin(annotated) is typing.Unpack:
        (annotated,) = typing.get_args(annotated)
    if typing.is_typeddict(annotated):
        return names | set(typing.get_type_hints(annotated))
    if (called.__module__ or "").startswith("grit_integrations"):  # `**options` of ours go to the model
        return names | set(inspect.signature(GritLM.__init__).parameters)
    return None
