"""Add an envelope path and excitation to a checkpoint, as the start of their joint training.

python recipes/apollo_small/assemble.py CHECKPOINT ENVELOPE [ENVELOPE ...] OUT --valid FOLDER

Everything of CHECKPOINT is kept. The envelope path gets the weights of train_envelope.py, the mean
of several files if given, smoothed over frequency and with the mean error of each band on the files
of make_valid.py removed. The excitation fills the predicted bands, with more noise than tile.
Connections between the two start at zero, so OUT restores the same as CHECKPOINT below the cut-off,
and the path's prediction above it.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from highs.levels import mean_errors
from safetensors.torch import load_file
from torch import nn

from apollo_plugin import Apollo, checkpoints
from apollo_plugin.cli.terminal import run, script_parser
from apollo_plugin.errors import CheckpointError, one_line
from apollo_plugin.network.highs.gain_bands import TARGET_START
from apollo_plugin.network.layers import BandLinear

# Log odds of the tile's share of the energy. On recordings -4 and -3 did as well as -2, and better
# than a half: tiles at slightly wrong levels are heard as tones.
TONALITY = -3.0
# Standard deviation in bands of the smoothing of predicted levels, and the number of bands above
# the source region over which it is reached. An error in one band would be a line through a song.
SMOOTHING, FADE = 2.0, 12


def smoothing(n_bands: int) -> torch.Tensor:
    """``(n_bands, n_bands)``: levels to levels smoothed above the source region."""
    band = torch.arange(n_bands).float()
    sigma = SMOOTHING * ((band - TARGET_START + 1) / FADE).clamp(0, 1)
    distance = (band - band[:, None]) / sigma[:, None].clamp(min=1e-3)
    weight = torch.exp(-0.5 * distance.square())
    weight[TARGET_START:, : TARGET_START - 1] = 0
    return weight / weight.sum(-1, keepdim=True)


@torch.no_grad()
def hold_back(model: Apollo, share: float) -> None:
    """Scale the tokens' additions to the bands below those that the excitation fills."""
    assert model.highs is not None
    bands, bottom = model.filterbank.bands, TARGET_START * model.highs.excitation.gain_bands.width
    edges = list(itertools.accumulate(bands.widths))
    for (width, members), decoder in zip(bands.groups.items(), model.decoders):
        output = cast(BandLinear, cast(nn.Sequential, decoder)[-1])
        for index, band in enumerate(members):
            if edges[band] <= bottom:
                for parameter in output.parameters():  # the values of a GLU, not its gates
                    parameter[index, : 2 * width] *= share


def assembled(
    model: Apollo,
    envelopes: list[Path],
    valid: Sequence[Path] = (),
    coded: Sequence[Path] = (),
    low: float = 1.0,
) -> Apollo:
    """Add to ``model`` an envelope path of the mean of the weights in ``envelopes``, less the mean
    errors of its bands on ``valid`` and ``coded`` (:func:`~highs.levels.mean_errors`), and
    excitation; ``low`` is for :func:`hold_back`."""
    several = [load_file(envelope) for envelope in envelopes]
    if any(path.keys() != several[0].keys() for path in several):
        raise CheckpointError(f"'{envelopes[0]}' and the other envelope paths are of two kinds")
    path = {
        name: torch.stack([one[name].float() for one in several]).mean(0) for name in several[0]
    }
    width, _, kernel = path["blocks.0.conv.weight"].shape
    options = dict(envelope_dim=width, envelope_kernel=kernel, excitation=True)
    new = Apollo(**model.get_model_args() | options)
    assert new.highs is not None and new.highs.path is not None
    tokens = {k: v for k, v in model.state_dict().items() if not k.startswith("highs.path.")}
    new.load_state_dict(new.state_dict() | tokens)
    try:
        new.highs.path.load_state_dict(path)
    except RuntimeError as error:
        raise CheckpointError(f"'{envelopes[0]}' does not fit: {one_line(error)}") from error
    hold_back(new, low)
    decoder = new.highs.path.decoder
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.copy_(smoothing(len(parameter)) @ parameter)
        decoder.bias -= mean_errors(new.highs.path, valid, coded)
    nn.init.constant_(new.highs.excitation.tonality, TONALITY)
    return new


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("checkpoint", help="name or file")
    parser.add_argument("envelope", type=Path, nargs="+", help="safetensors of train_envelope.py")
    parser.add_argument("out", type=Path, help="safetensors file to write")
    parser.add_argument("--valid", type=Path, nargs="+", default=[], help="of make_valid.py")
    parser.add_argument("--coded", type=Path, nargs="+", default=[], help="of what had been coded")
    parser.add_argument("--low", type=float, default=1.0, help="share of what tokens change below")
    args = parser.parse_args()
    model = Apollo.from_pretrained(args.checkpoint)
    model = assembled(model, args.envelope, args.valid, args.coded, args.low)
    checkpoints.save(model, args.out)


if __name__ == "__main__":
    run(main)
