"""The floors of the house: which package may import which, and what no module may do.

Imports are read from the source, so that those inside functions and `if TYPE_CHECKING` count.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = "sap_detr"

# From the ground up: a package imports from itself and from floors below its own.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    (
        "arguments",
        "bad_files",
        "check_env",
        "config_files",
        "config_values",
        "projects",
        "published_weights",
        "small_models",
        "text",
    ),
    ("own_modules", "weights_files"),
    ("parsers",),
    ("layers", "checkpoint"),
    ("data",),
    ("config",),
    ("modeling", "evaluation"),
    ("engine",),
    ("visualization", "analysis", "results", "tiles"),
    ("detector",),
    ("export",),
    ("model_zoo",),
    ("commands",),
    ("cli",),
)

# Private by their underscore, but documented, or without a public name that does the same.
ALLOWED_PRIVATE = {
    "comm._LOCAL_PROCESS_GROUP",  # Detectron2 0.5 has no public way outside of its launch()
    "os._exit",  # documented
    "sys._getframe",  # documented
    "torch._dynamo",  # its limits have a public name in late versions only, and not all of them
    "torch._dynamo.config",
    "torch._foreach_add_",  # one kernel for all tensors of a list
    "torch._foreach_mul_",
    "torch._foreach_norm",
    "torch._foreach_sub",
    # The gradient of the weights alone: by the public way the bags are summed a second time.
    "torch.ops.aten._embedding_bag_per_sample_weights_backward",
    "torch.utils._python_dispatch",  # the only home of TorchDispatchMode
}

# Modules that exist on some systems only.
NOT_EVERYWHERE = {"fcntl", "grp", "msvcrt", "posix", "pwd", "resource", "termios", "winreg"}


@dataclass(frozen=True)
class Import:
    """One imported name.

    Attributes:
        target: dotted name of the module, as far as it is one of the repository; else of what the
            module is said to be.
        line: where it stands.
        guarded: whether it only runs when a function is called, or its failure is caught.
    """

    target: str
    line: int
    guarded: bool


@dataclass(frozen=True)
class Module:
    """A module of the repository.

    Attributes:
        name: its dotted name.
        path: its file.
    """

    name: str
    path: Path

    @property
    def package(self) -> str:
        """What its relative imports start from."""
        return self.name if self.path.stem == "__init__" else self.name.rpartition(".")[0]

    @property
    def floor(self) -> str | None:
        """The package or module of the library that it belongs to; None for the library itself."""
        return part_of_library(self.name)

    def at(self, line: int, text: str) -> str:
        path = self.path.relative_to(ROOT) if self.path.is_relative_to(ROOT) else self.path
        return f"{path.as_posix()}:{line} {text}"


def part_of_library(name: str) -> str | None:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else None


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def modules_below(folder: Path, package: str) -> dict[str, Module]:
    """Dotted name to module, for all of a folder."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        name = ".".join((package, *(part for part in parts if part != "__init__")))
        found[name] = Module(name, path)
    return found


@cache
def library() -> dict[str, Module]:
    return modules_below(ROOT / LIBRARY, LIBRARY)


@cache
def library_and_projects() -> dict[str, Module]:
    """With the names that projects have once they are installed."""
    found = dict(library())
    for folder in sorted((ROOT / "projects").glob("*/")):
        found |= modules_below(folder / folder.name, f"{LIBRARY}.projects.{folder.name}")
    return found


@cache
def tools() -> dict[str, Module]:
    return modules_below(ROOT / "tools", "tools")


def walk(node: ast.AST, guarded: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """All nodes, each with whether it stands in a function or in a `try`."""
    for child in ast.iter_child_nodes(node):
        inside = guarded or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Try))
        yield child, inside
        yield from walk(child, inside)


@cache
def imports_of(module: Module) -> tuple[Import, ...]:
    """All imports of a module, wherever they stand; relative ones made absolute."""
    return tuple(_imports(module))


def _imports(module: Module) -> Iterator[Import]:
    for node, guarded in walk(parsed(module.path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, guarded)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *([base] if base else [])])
            for alias in node.names:
                name = f"{base}.{alias.name}"
                is_module = name in library_and_projects()
                yield Import(name if is_module else base, node.lineno, guarded)


def upward_imports() -> Iterator[str]:
    """A floor imports from floors below."""
    height = {name: level for level, names in enumerate(FLOORS) for name in names}
    for module in library().values():
        importer = module.floor
        for found in imports_of(module):
            imported = part_of_library(found.target)
            if importer is None or imported in (importer, None):
                continue
            if found.target.startswith(f"{LIBRARY}.") and height[imported] >= height[importer]:
                yield module.at(found.line, f"imports {found.target}")


def imports_of_projects() -> Iterator[str]:
    """The library does not know its projects: entry points lead to them, see `load_projects`."""
    for module in library().values():
        for found in imports_of(module):
            if found.target.startswith(f"{LIBRARY}.projects."):
                yield module.at(found.line, f"imports {found.target}")


def imports_of_tools() -> Iterator[str]:
    """Tools and tests stand above everything."""
    forbidden = {name.split(".")[1] for name in tools()} | {"tools", "tests"}
    for module in library_and_projects().values():
        for found in imports_of(module):
            if found.target.split(".")[0] in forbidden:
                yield module.at(found.line, f"imports {found.target}")


def circles() -> Iterator[str]:
    """No module imports itself by a detour."""
    modules = library_and_projects()
    arrows = {
        name: {found.target for found in imports_of(module)} & modules.keys()
        for name, module in modules.items()
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> Iterator[str]:
        if name in path:
            yield modules[name].at(1, " -> ".join((*path[path.index(name) :], name)))
        elif name not in done:
            for target in sorted(arrows[name]):
                yield from visit(target, (*path, name))
            done.add(name)

    for name in sorted(modules):
        yield from visit(name, ())


def mocks() -> Iterator[str]:
    """Mocks are for tests."""
    for module in (library_and_projects() | tools()).values():
        for found in imports_of(module):
            if found.target.split(".")[0] in ("mock", "unittest"):
                yield module.at(found.line, f"imports {found.target}")


def imports_of_one_system() -> Iterator[str]:
    """Every module can be imported on Linux, macOS and Windows."""
    for module in library_and_projects().values():
        for found in imports_of(module):
            if found.target.split(".")[0] in NOT_EVERYWHERE and not found.guarded:
                yield module.at(found.line, f"imports {found.target} outside a function or try")


def private_uses(module: Module) -> Iterator[tuple[int, str]]:
    """Lines and dotted names: what a module takes from other libraries that is private there."""
    foreign: set[str] = set()
    taken: list[tuple[int, str]] = []
    for node in ast.walk(parsed(module.path)):
        if isinstance(node, ast.Import):
            foreign |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
            taken += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            foreign |= {alias.asname or alias.name for alias in node.names}
            taken += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    for node in ast.walk(parsed(module.path)):
        root = node
        while isinstance(root, ast.Attribute):
            root = root.value
        if isinstance(node, ast.Attribute) and isinstance(root, ast.Name) and root.id in foreign:
            taken.append((node.lineno, ast.unparse(node)))
    for line, name in taken:
        parts = name.split(".")
        for end, part in enumerate(parts, 1):
            if part.startswith("_") and not part.startswith("__"):
                if ".".join(parts[:end]) not in ALLOWED_PRIVATE:
                    yield line, name
                break


def private_ground() -> Iterator[str]:
    """Nothing private of other libraries is used, see `ALLOWED_PRIVATE`."""
    for module in library_and_projects().values():
        for line, name in private_uses(module):
            yield module.at(line, f"uses {name}")


def code_in_configs() -> Iterator[str]:
    """Configs name functions and classes, they do not define any: each can be saved as YAML."""
    for path in (*ROOT.glob("configs/**/*.py"), *ROOT.glob("projects/*/configs/**/*.py")):
        for node in ast.walk(parsed(path)):
            if isinstance(node, (ast.Lambda, ast.FunctionDef, ast.ClassDef)):
                yield Module("", path).at(node.lineno, "defines a function or a class")


RULES: tuple[Callable[[], Iterator[str]], ...] = (
    upward_imports,
    imports_of_projects,
    imports_of_tools,
    circles,
    mocks,
    imports_of_one_system,
    private_ground,
    code_in_configs,
)


def test_every_part_has_a_floor():
    assert {m.floor for m in library().values()} - {None} == {n for floor in FLOORS for n in floor}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule(rule):
    broken = list(rule())
    assert not broken, "\n".join([rule.__doc__, *broken])


SOURCE = """
from __future__ import annotations

import resource
from typing import TYPE_CHECKING

import torch as t
from os import _exit as leave

from ..layers import attention

if TYPE_CHECKING:
    from ..engine.trainer import Trainer

def late():
    import fcntl
    from . import matcher
    return t._dynamo.config, t.nn, attention._own, t.__version__
"""


def test_imports_are_found_wherever_they_stand(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(SOURCE)
    module = Module(f"{LIBRARY}.modeling.module", path)
    found = {(i.target, i.guarded) for i in imports_of(module)}
    assert found >= {
        ("resource", False),
        ("fcntl", True),
        ("sap_detr.layers.attention", False),
        ("sap_detr.engine.trainer", False),
        ("sap_detr.modeling.matcher", True),
    }
    assert {name for _, name in private_uses(module)} == {"t._dynamo", "t._dynamo.config"}
