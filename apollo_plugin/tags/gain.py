"""Tags of loudness: ReplayGain 2.0, R128 as in Opus, Sound Check of iTunes."""

from collections.abc import Collection

# In LUFS.
_REPLAYGAIN, _R128 = -18.0, -23.0
# R128 gains are fixed-point numbers of 16 bits with so many steps per dB.
_Q78, _MOST = 256, 2**15
# Numbers of Sound Check: volumes at two reference powers, and peaks in 16 bits.
_REFERENCES, _VOLUME_LIMIT, _PEAK = (1000, 2500), 65534, 32768


def fields(
    kinds: Collection[str], scope: str, loudness: float | None, true_peak: float, opus: bool = False
) -> dict[str, str]:
    """Compute the fields of a track or an album; none for silence.

    Args:
        kinds: kinds of loudness tags in the source.
        scope: ``track`` or ``album``.
        loudness: in LUFS.
        true_peak: full scale 1.0.
        opus: True for an Opus file, which has R128 only.
    """
    found: dict[str, str] = {}
    if loudness is None or not kinds:
        return found
    gain = _REPLAYGAIN - loudness
    if not opus:
        found[f"replaygain_{scope}_gain"] = f"{gain:.2f} dB"
        found[f"replaygain_{scope}_peak"] = f"{true_peak:.6f}"
    if opus or "r128" in kinds:
        steps = round(_Q78 * (_R128 - loudness))
        found[f"r128_{scope}_gain"] = str(min(max(steps, -_MOST), _MOST - 1))
    if "soundcheck" in kinds and scope == "track":
        found["itunnorm"] = _sound_check(gain, true_peak)
    return found


def _sound_check(gain: float, true_peak: float) -> str:
    """Format the ten numbers of Sound Check: volumes and peaks of left and right, others 0."""
    volumes = [min(round(10 ** (-gain / 10) * each), _VOLUME_LIMIT) for each in _REFERENCES]
    peak = min(round(true_peak * _PEAK), 2**16 - 1)
    numbers = [n for each in (*volumes, 0, peak, 0) for n in (each, each)]
    return "".join(f" {number:08X}" for number in numbers)
