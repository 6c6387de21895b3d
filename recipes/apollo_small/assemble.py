"""Gives a checkpoint an envelope path and excitation: where their joint training starts from.

python recipes/apollo_small/assemble.py CHECKPOINT ENVELOPE OUT

Everything of CHECKPOINT is kept; the envelope path has the weights that train_envelope.py left, and
the excitation fills what the path expects. What leads from one to the other starts at nothing, so
OUT restores what CHECKPOINT does, and above the cut-off the excitation beside it.
"""

import argparse
from pathlib import Path

from safetensors.torch import load_file

from apollo_plugin import Apollo, checkpoints
from apollo_plugin.cli.terminal import run
from apollo_plugin.errors import CheckpointError, one_line


def assembled(model: Apollo, envelope: Path) -> Apollo:
    """``model`` with an envelope path of the weights in ``envelope``, and with excitation."""
    path = load_file(envelope)
    options = dict(envelope_dim=len(path["encoder.bias"]), excitation=True)
    new = Apollo(**model.get_model_args() | options)
    weights = new.state_dict() | model.state_dict()
    weights |= {f"envelope_path.{name}": weight for name, weight in path.items()}
    try:
        new.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"'{envelope}' does not fit: {one_line(error)}") from error
    return new


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", help="name or file")
    parser.add_argument("envelope", type=Path, help="safetensors of train_envelope.py")
    parser.add_argument("out", type=Path, help="safetensors file to write")
    args = parser.parse_args()
    model = assembled(Apollo.from_pretrained(args.checkpoint), args.envelope)
    checkpoints.save(model, args.out)


if __name__ == "__main__":
    run(main)
