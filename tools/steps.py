"""Write the exported steps of the bundled checkpoints beside them, each compared with its model.

    python tools/steps.py

Whoever changes a bundled checkpoint, or what is exported, runs this anew.
"""

from apollo_plugin import Apollo, export
from apollo_plugin.checkpoints.loading import WEIGHTS

for path in sorted(WEIGHTS.glob("*.safetensors")):
    target = path.with_suffix(".onnx")
    difference = export.export(Apollo.from_pretrained(path.stem), target, "stream")
    print(f"{target.name}: within {difference:.1e} of the model, {target.stat().st_size} bytes")
