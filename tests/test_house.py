"""The house: arrows run one way, files stay short, what is optional may be absent."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "apollo_plugin"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
# From people over work and files to the network and the ground: a part imports those after it
# (and its own wing), never one before it.
ORDER = [
    ["benchmark"],
    ["cli"],
    ["batch"],
    ["training"],
    ["evaluation"],
    ["report", "pipelines", "export"],
    ["separators"],
    ["data"],
    ["srgan"],
    ["engine.choose"],
    ["model"],
    ["live"],
    ["restore", "checkpoints"],
    ["settings", "tags", "engine.torch"],
    ["audio", "losses", "metrics", "diagnose", "blocks"],
    ["network", "hearing", "sounds", "spectra", "engine"],
    ["files", "memory", "errors", "formats", "bundled", "apollo_plugin"],
]
RANK = {part: rank for rank, parts in enumerate(ORDER) for part in parts}


def imported(name: str) -> set[str]:
    """Modules of the package that one of them imports: anywhere in it, for type checkers too."""
    path, found = MODULES[name], set()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                parts = parts[: len(parts) - node.level + 1]
                base = ".".join([*parts, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for full in names:
            while full and full not in MODULES:
                full = full.rpartition(".")[0]
            if full:
                found.add(full)
    return found - {name}


GRAPH = {name: imported(name) for name in MODULES}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of more than one node (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == index[node]:
            members = []
            while not members or members[-1] != node:
                members.append(stack.pop())
            if len(members) > 1:
                found.append(sorted(members))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def test_circles_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c"]]


def test_no_import_goes_in_a_circle():
    assert circles(GRAPH) == []


def part(name: str) -> str:
    """The wing of a module, or what ORDER names in it."""
    below = name.removeprefix("apollo_plugin.")
    return below if below in RANK else below.split(".")[0]


def test_arrows_run_one_way():
    upward = [
        f"{name} imports {other}"
        for name in GRAPH
        for other in GRAPH[name]
        if part(name) != part(other) and RANK[part(name)] >= RANK[part(other)]
        # The package's own name is its version's.
        and other != "apollo_plugin"
    ]
    assert {part(name) for name in MODULES} == set(RANK)
    assert not upward


@pytest.mark.parametrize("name", MODULES)
def test_files_are_short(name):
    lines = MODULES[name].read_text().count("\n")
    assert lines <= 320, f"{lines} lines; split it by idea"


def test_tests_look_for_commands_by_the_marker():
    """``needs``, by which .ci/run finds what was skipped on a bare machine."""
    others = {
        path.name
        for path in (ROOT / "tests").rglob("*.py")
        if "which(" in path.read_text() and path != Path(__file__)
    }
    assert others == {"conftest.py", "helpers.py"}


# Of the extras of setup.cfg.
OPTIONAL = (
    "fast_bss_eval matplotlib numba visqol zimtohrli distributed tensorboard onnx onnxruntime "
    "onnxscript gradio musdb museval mir_eval torchao omegaconf playwright psutil"
).split()


def test_every_module_is_imported_without_what_is_optional():
    names = [name for name in MODULES if not name.endswith("__main__")]
    code = f"""if True:
        import importlib.util, sys
        class Without:
            def __init__(self, finder):
                self.finder = finder
            def find_spec(self, name, *rest):
                absent = name.split(".")[0] in {OPTIONAL!r}
                return None if absent else self.finder.find_spec(name, *rest)
            def __getattr__(self, name):
                return getattr(self.finder, name)
        sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
        assert importlib.util.find_spec("gradio") is None
        for name in {names!r}:
            importlib.import_module(name)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
