"""What the README shows exists and runs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


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


def test_ci_runs_the_test_command():
    assert sum(line.endswith("-m pytest") for line in README.splitlines()) == 1
