"""The network stands on torch and the filterbanks alone."""

import json
import subprocess
import sys


def loaded(imports: str) -> set[str]:
    """Modules that a fresh interpreter has after some imports."""
    program = f"import json, sys; {imports}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


MODULES = ("apollo", "streaming", "precision", "highs.exportable")


def test_the_network_knows_no_file_no_hub_and_no_progress_bar():
    names = [f"apollo_plugin.network.{module}" for module in MODULES]
    new = loaded(f"import {', '.join(names)}") - loaded("import torch")
    packages = {name.partition(".")[0] for name in new}
    assert not packages & {
        "asteroid",
        "huggingface_hub",
        "pytorch_lightning",
        "scipy",
        "soundfile",
        "tqdm",
    }
    ours = {name for name in new if name.startswith("apollo_plugin.")}
    above = {name for name in ours if not name.startswith("apollo_plugin.network")}
    assert ours >= set(names) and above <= {"apollo_plugin.errors"}
