"""Rules of the house: import order, sizes, signatures, docstrings, optional dependencies."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
    ["files", "memory"],
    ["errors", "formats", "bundled", "apollo_plugin"],
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


# ------------------------------------------------------------------------ sizes and signatures

SOURCES = {
    path.relative_to(ROOT).as_posix(): ast.parse(path.read_text())
    for folder in (PACKAGE, ROOT / "recipes")
    for path in sorted(folder.rglob("*.py"))
}
MOST_LINES = {ast.FunctionDef: 60, ast.AsyncFunctionDef: 60, ast.ClassDef: 150}
MOST_POSITIONAL = 6
# Longer ones, with the size that they must not exceed. This table only shrinks.
LARGE: dict[tuple[str, str], int] = {
    ("apollo_plugin/audio/decoding.py", "_Decoding"): 210,
    ("apollo_plugin/audio/writing.py", "write"): 62,
    ("apollo_plugin/cli/gradio_page.py", "build"): 81,
    ("apollo_plugin/cli/options.py", "Options"): 174,
    ("apollo_plugin/cli/pcm.py", "Input"): 185,
    ("apollo_plugin/network/apollo.py", "ApolloNetwork"): 166,
    ("apollo_plugin/network/apollo.py", "ApolloNetwork.__init__"): 67,
    ("apollo_plugin/network/srgan.py", "SRGANNetwork"): 159,
}
# Functions with more positional parameters, with their number. This table only shrinks.
MANY_PARAMETERS: dict[tuple[str, str], int] = {
    ("apollo_plugin/audio/writing.py", "write"): 11,
    ("apollo_plugin/benchmark.py", "measure"): 8,
    ("apollo_plugin/batch/pool.py", "_in_processes"): 7,
    ("apollo_plugin/restore.py", "restore_audio"): 8,
    ("apollo_plugin/restore.py", "write_result"): 7,
    ("apollo_plugin/restore.py", "_write"): 7,
}
# Models, losses, data sets and systems, whose signature Asteroid, checkpoints or users fix.
FIXED_SIGNATURES = {
    ("apollo_plugin/data/dataset.py", "MixtureDataset.__init__"),
    ("apollo_plugin/losses/generator.py", "GeneratorLoss.__init__"),
    ("apollo_plugin/losses/wasserstein.py", "SRGANLoss.__init__"),
    ("apollo_plugin/network/apollo.py", "ApolloNetwork.__init__"),
    ("apollo_plugin/network/highs/envelope.py", "EnvelopePath.__init__"),
    ("apollo_plugin/network/filterbank.py", "ApolloSTFT.__init__"),
    ("apollo_plugin/network/layers.py", "BandSequenceModule.__init__"),
    ("apollo_plugin/network/srgan.py", "SRGANNetwork.__init__"),
    ("apollo_plugin/training/system.py", "ApolloSystem.__init__"),
}
QUESTIONS = {"What", "Where", "Who", "Whose", "Whether", "How"}


def definitions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Classes and functions of a module with their qualified names, at any depth."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, tuple(MOST_LINES)):
            name = f"{prefix}{node.name}"
            yield name, node
            yield from definitions(node, f"{name}.")
        else:
            yield from definitions(node, prefix)


def n_lines(node: Any) -> int:
    """Lines of a definition with its decorators, without docstrings, those inside included."""
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    inside = [node, *(inner for _, inner in definitions(node))]
    docs = [each.body[0] for each in inside if ast.get_docstring(each) is not None]
    return node.end_lineno - first + 1 - sum(d.end_lineno - d.lineno + 1 for d in docs)


def n_positional(node: Any) -> int:
    """Number of parameters that may be given by position, without ``self`` and ``cls``."""
    names = [each.arg for each in (*node.args.posonlyargs, *node.args.args)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


DEFINITIONS = [
    (file, name, node) for file, tree in SOURCES.items() for name, node in definitions(tree)
]


def test_lines_and_parameters_are_counted():
    source = (
        "@decorator\nclass A:\n    'One line.'\n\n    def f(self, a, /, b, *c, d):\n"
        "        'Two\\\n        lines.'\n        return a\n"
    )
    (_, a), (name, f) = definitions(ast.parse(source))
    assert name == "A.f"
    assert [n_lines(a), n_lines(f), n_positional(f)] == [5, 2, 2]


def test_functions_and_classes_are_short():
    sizes = {(file, name): n_lines(node) for file, name, node in DEFINITIONS}
    limits = {(file, name): MOST_LINES[type(node)] for file, name, node in DEFINITIONS}
    too_long = {
        key: size for key, size in sizes.items() if size > max(limits[key], LARGE.get(key, 0))
    }
    assert not too_long
    short_by_now = {key for key in LARGE if key not in sizes or sizes[key] <= limits[key]}
    assert not short_by_now, "remove them from LARGE"


def test_functions_have_few_positional_parameters():
    counts = {
        (file, name): n_positional(node)
        for file, name, node in DEFINITIONS
        if not isinstance(node, ast.ClassDef) and (file, name) not in FIXED_SIGNATURES
    }
    too_many = {
        key: count
        for key, count in counts.items()
        if count > max(MOST_POSITIONAL, MANY_PARAMETERS.get(key, 0))
    }
    assert not too_many
    few_by_now = {key for key in MANY_PARAMETERS if counts.get(key, 0) <= MOST_POSITIONAL}
    assert not few_by_now, "remove them from MANY_PARAMETERS"


def test_fixed_signatures_are_those_of_constructors():
    assert {(file, name) for file, name, _ in DEFINITIONS} >= FIXED_SIGNATURES
    assert all(name.endswith(".__init__") for _, name in FIXED_SIGNATURES)


def riddles(tree: ast.Module) -> list[str]:
    """First lines of a file's docstrings that begin with a question word."""
    nodes = [tree, *(node for _, node in definitions(tree))]
    docs = [ast.get_docstring(node) for node in nodes]
    return [doc.splitlines()[0] for doc in docs if doc and doc.split()[0] in QUESTIONS]


def test_docstrings_begin_with_the_action_or_the_thing():
    tests = {path.name: ast.parse(path.read_text()) for path in (ROOT / "tests").rglob("*.py")}
    trees = {**SOURCES, **tests}
    assert not [f"{file}: {line}" for file, tree in trees.items() for line in riddles(tree)]


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
