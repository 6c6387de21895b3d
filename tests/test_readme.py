"""All that the README shows exists and runs."""

import configparser
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def test_python_snippets_run():
    snippets = re.findall(r"```python\n(.*?)```", README, re.S)
    assert snippets
    names: dict = {}
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), names)
    assert names["restored"].shape == names["wav"].shape


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!http)([^)]+)\)", README))))
def test_links_lead_somewhere(target):
    assert (ROOT / target).is_file()


def commands() -> list[str]:
    """The two that a newcomer copies: what begins with a new environment."""
    return [line for line in README.splitlines() if line.startswith("python3 -m venv")]


def test_readme_ci_and_contributing_name_the_same_commands():
    ci = (ROOT / ".ci" / "run").read_text()
    picked = re.findall(r"""grep -m 1 -- '(.+)' README.md""", ci)
    found = [[line for line in README.splitlines() if re.search(end, line)] for end in picked]
    assert found == [[command] for command in commands()] and len(found) == 2
    assert all(f"`{command}`" in CONTRIBUTING for command in commands())


def requirements() -> list[Requirement]:
    """The requirements of setup.cfg, the extra ``test`` included."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options"]["install_requires"] + setup["options.extras_require"]["test"]
    return [Requirement(line) for line in lines.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_constraints_hold_one_version_within_bounds_of_all_that_is_asked_for(python, platform):
    assert all("/pip install -q -c constraints.txt " in command for command in commands())
    here = dict(python_full_version=f"{python}.9", sys_platform=platform)
    pinned: dict = {}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    for one in (Requirement(line) for line in lines if not line.startswith("#")):
        if one.marker is None or one.marker.evaluate(here):
            pinned.setdefault(one.name, []).append(one.specifier)
    for asked in requirements():
        (exact,) = pinned[canonicalize_name(asked.name)]
        (version,) = exact
        assert version.operator == "==" and asked.specifier.contains(version.version), asked


def test_it_is_read_in_five_minutes():
    assert len(README.split()) <= 1000


def test_the_map_lists_every_module_and_no_other():
    """Of the package by its parts; of tests and docs, the named ones exist."""
    tree = CONTRIBUTING.split("## The house")[1].split("```")[1]
    inside, outside = tree.split("recipes/musdb18hq_moises/")
    package = ROOT / "apollo_plugin"
    listed: dict[str, set[str]] = {"": set()}
    for line in inside.splitlines():
        # Two spaces: an entry of the top level; more belong to the entry above.
        if entry := re.match(r"  ([a-z_/]+)(/|\.py)", line):
            part = entry[1] if entry[2] == "/" else ""
            listed.setdefault(part, set())
        listed[part if line.startswith("  ") else ""] |= set(
            re.findall(r"\b[a-z_0-9]+\.py\b", line)
        )
    there: dict[str, set[str]] = {
        path.name: set() for path in package.iterdir() if path.is_dir() and path.name[0] not in "._"
    }
    for path in package.rglob("*.py"):
        folder = path.parent.relative_to(package).as_posix().removeprefix(".")
        if path.name not in ("__init__.py", "__main__.py"):
            there.setdefault(folder, set()).add(path.name)
    assert {part: names - {"__init__.py"} for part, names in listed.items()} == there
    others = {path.name for folder in ("tests", "docs") for path in (ROOT / folder).rglob("*.py")}
    assert set(re.findall(r"\b[a-z_]+\.py\b", outside)) <= others


def test_first_guesses_are_right():
    """Examples in CONTRIBUTING of the place of an idea."""
    for path in re.findall(r"`((?:network|losses|cli|data)/[a-z_]+\.py)`", CONTRIBUTING):
        assert (ROOT / "apollo_plugin" / path).is_file()
    assert "def finish(" in (ROOT / "apollo_plugin/network/stft.py").read_text()
    assert "class AdversarialLoss(" in (ROOT / "apollo_plugin/losses/adversarial.py").read_text()
    assert "class Int8Linear(" in (ROOT / "apollo_plugin/network/precision.py").read_text()


def results():
    """Rows of the table of results, by name."""
    inside = README.split("<!-- python docs/results.py FOLDER -->\n")[1].split("<!-- end")[0]
    rows = [line.strip("|").split("|") for line in inside.splitlines()[2:]]
    return {row[0]: [float(cell) for cell in row[1:]] for row in rows}


def test_means_of_the_results_are_means():
    """Three excerpts of each bit rate, so the mean of all is that of the rows."""
    rows = results()
    rates = [values for name, values in rows.items() if name.isdigit()]
    for mean, *column in zip(rows["all 15"], *rates, strict=True):
        assert abs(mean - sum(column) / len(rates)) < 0.011  # two roundings


def test_the_table_is_made_of_what_is_measured():
    sys.path.insert(0, str(ROOT / "docs"))
    from results import METRICS, table

    generator = np.random.default_rng(0)
    values = generator.normal(size=(2, 3, len(METRICS), 3))  # rates, excerpts, metrics, versions
    found = {
        kbps: [dict(zip(METRICS, map(tuple, excerpt))) for excerpt in of_rate]
        for kbps, of_rate in zip((24, 96), values)
    }
    rows = [line.strip("|").split("|") for line in table(found).splitlines()[2:]]
    assert [row[0] for row in rows] == ["24", "96", "all 6", "the 2 first"]
    means = [*values.mean(1), values.mean((0, 1)), values[:, 0].mean(0)]
    for row, mean in zip(rows, means):
        assert np.allclose([float(cell) for cell in row[1:]], mean.ravel(), atol=0.00501)
