"""The package as a whole: what importing it costs, and that it is built as `docs/architecture.md` draws it."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import grit_integrations
from grit_integrations import errors

ROOT = Path(grit_integrations.__file__).parent
PAGE = ROOT.parent / "docs" / "architecture.md"
FRAMEWORKS = ("langchain", "langchain_core", "llama_index", "chromadb")

# From top to bottom. A room may import from those below it and from itself; twins stand on one line.
ROOMS = [
    ("cli",),
    ("training",),
    ("evaluation",),
    ("ingest",),
    ("testing",),
    ("langchain", "llama_index"),
    ("chroma",),
    ("model",),
    ("handle",),
    ("reranking", "quoting"),
    ("engine",),
    ("kv",),
    ("loading",),
    ("prompts",),
    ("progress",),
    ("results",),
    ("doc_blocks",),
    ("options",),
    ("option_sets",),
    ("pooling",),
    ("option_values",),
    ("errors",),
]
FLOOR = {room: -index for index, twins in enumerate(ROOMS) for room in twins}

FILES = {
    ".".join(file.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): file
    for file in sorted(ROOT.rglob("*.py"))
    if file != ROOT / "__init__.py"
}
every_file = pytest.mark.parametrize("module", FILES)


def room_of(module: str) -> str:
    return module.split(".")[1]


def imported(tree: ast.AST, *, running: bool = False) -> Iterator[str]:
    """Yield every module that is imported, wherever it stands; with `running`, only what importing the file imports."""
    for node in ast.iter_child_nodes(tree):
        if running and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if running and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            inside = [name for name in submodules if name in FILES]
            yield from inside or [node.module]
        else:
            yield from imported(node, running=running)


@functools.cache
def imports(module: str, *, running: bool = False) -> frozenset[str]:
    return frozenset(imported(ast.parse(FILES[module].read_text()), running=running)) - {module}


def own(modules: frozenset[str]) -> list[str]:
    return sorted(name for name in modules if name in FILES)


# Arrows


@every_file
def test_arrows_point_downward(module: str) -> None:
    """Imports in functions and for types alone included."""
    for other in own(imports(module)):
        here, there = room_of(module), room_of(other)
        assert there == here or FLOOR[there] < FLOOR[here], f"{module} imports {other}"


@every_file
def test_the_core_knows_no_framework(module: str) -> None:
    if FLOOR[room_of(module)] <= FLOOR["model"]:
        assert not {name for name in imports(module) if name.split(".")[0] in FRAMEWORKS}


def test_there_is_no_import_circle() -> None:
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " > ".join([*path[path.index(module) :], module])
        if module not in done:
            for other in own(imports(module)):
                if not other.startswith(f"{module}."):  # a package's own names for what its files hold
                    visit(other, (*path, module))
            done.add(module)

    for module in FILES:
        visit(module, ())


@pytest.mark.parametrize(("room", "most"), [("model", 10), ("langchain", 14), ("llama_index", 16)])
def test_import_chains_are_short(room: str, most: int) -> None:
    """How deep a reader must go who follows what importing an adapter imports."""

    @functools.cache
    def longest(name: str) -> tuple[str, ...]:
        return (name, *max((longest(other) for other in own(imports(name, running=True))), key=len, default=()))

    chain = longest(f"grit_integrations.{room}")
    assert len(chain) <= most, " > ".join(chain)


# Names


def test_no_two_public_types_share_a_name() -> None:
    """But the twins, which the frameworks' users know by one name."""
    homes: defaultdict[str, list[str]] = defaultdict(list)
    for module, file in FILES.items():
        for node in ast.parse(file.read_text()).body:
            for name in type_names(node):
                homes[name].append(module)
    shared = {name: found for name, found in homes.items() if len(found) > 1}
    assert shared.keys() == {"GritLLM", "GritRetriever"}, shared
    assert all({room_of(module) for module in found} == {"langchain", "llama_index"} for found in shared.values())


def type_names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.ClassDef):
        names = [node.name]
    elif isinstance(node, ast.Assign):
        names = [target.id for target in node.targets if isinstance(target, ast.Name) and not target.id.isupper()]
        names = [name for name in names if name[0].isupper()]
    else:
        names = []
    return [name for name in names if not name.startswith("_")]


def test_no_file_is_two_rooms() -> None:
    lengths = {module: len(file.read_text().splitlines()) for module, file in FILES.items()}
    assert not {module: length for module, length in lengths.items() if length > 400}


# What importing costs


def modules_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return {name.split(".")[0] for name in output.stdout.split()}


def test_importing_the_package_loads_neither_torch_nor_a_framework() -> None:
    assert not modules_after("import grit_integrations") & {"torch", "transformers", "numpy", *FRAMEWORKS}
    light = "from grit_integrations import Decoding, GritError, Message, Usage"
    assert not modules_after(light) & {"torch", "transformers", *FRAMEWORKS}


def test_prompts_and_options_need_no_torch() -> None:
    light = ("prompts", "option", "pooling", "results", "errors", "progress")
    names = [name for name in FILES if room_of(name).startswith(light)]
    assert len(names) > 8
    assert not modules_after(f"import {', '.join(names)}") & {"torch", *FRAMEWORKS}


def test_every_public_name_is_there_and_no_other_is() -> None:
    for name in grit_integrations.__all__:
        assert getattr(grit_integrations, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing_like_it"):
        grit_integrations.nothing_like_it  # noqa: B018


# The drawings


def drawn() -> list[str]:
    """Return the modules of the drawing in `docs/architecture.md`, from top to bottom."""
    drawing = re.search(r"```text\ngrit_integrations/\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert drawing is not None
    found: list[str] = []
    path: list[str] = ["grit_integrations"]
    for line in drawing[1].splitlines():
        indent, name, text = re.fullmatch(r"( +)(\S+) +(\S.*)", line).groups()  # type: ignore[union-attr]
        assert len(text) > 8, f"{name} is drawn without its line"
        path = [*path[: len(indent) // 2], name.removesuffix("/").removesuffix(".py")]
        if name.endswith(".py"):
            found.append(".".join(path).removesuffix(".__init__"))
    return found


def test_the_page_draws_every_file() -> None:
    pages = drawn()
    assert not [name for name, count in Counter(pages).items() if count > 1]
    files = {name for name, file in FILES.items() if file.name != "__init__.py"}  # a folder's line is its package's
    assert set(pages) - files == set(), "drawn, but not there"
    assert files - set(pages) == set(), "there, but not drawn"


def test_rooms_are_drawn_in_their_order() -> None:
    order = [room for twins in ROOMS for room in twins]
    seen = list(dict.fromkeys(room_of(module) for module in drawn() if room_of(module) in order))
    assert seen == order


@pytest.mark.parametrize("room", ["prompts", "loading", "kv", "engine", "quoting", "reranking"])
def test_files_are_drawn_above_what_they_import(room: str) -> None:
    place = {module: index for index, module in enumerate(drawn())}
    inside = {module: at for module, at in place.items() if room_of(module) == room}
    assert len(inside) > 3
    for module, at in inside.items():
        wrong = [other for other in own(imports(module)) if inside.get(other, at) < at]
        assert not wrong, f"{module} imports {wrong}, drawn above it"


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    lines = [line for line in (errors.__doc__ or "").splitlines() if line.startswith(("Grit", "│", "├", "└"))]
    tree: dict[str, str] = {}  # each error and the one that it is drawn under
    above: list[tuple[int, str]] = []
    for line in lines:
        drawing = line.lstrip("│├└─ ")
        name, depth = drawing.split()[0], len(line) - len(drawing)
        above = [(other, parent) for other, parent in above if other < depth]
        tree[name] = above[-1][1] if above else "Exception"
        above.append((depth, name))
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.GritError)]
    assert tree == {kind.__name__: kind.__bases__[0].__name__ for kind in kinds}
