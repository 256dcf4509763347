"""The spectrograms and networks of AST, EAT with SSLAM, and Dasheng."""

from functools import partial

from jaxtyping import Array, Float, Int

from asdjax.models.spectrogram_embedder import Front
from asdjax.models.vision_transformer import Form
from asdjax.signal import fbank, mel_decibels


def _kaldi(
    waveform: Float[Array, "B T"], length: Int[Array, " B"] | None, *, mean: float, std: float
) -> Float[Array, "B L 128"]:
    """The normalised filterbank; frames do not depend on where a clip ends."""
    return fbank.normalised(fbank.fbank(waveform, fbank.HANN), mean, std)


AST = Front(
    Form("table", class_tokens=2),
    # mean and standard deviation of AudioSet, as in the published feature extractor
    partial(_kaldi, mean=-4.2677393, std=4.5689974),
    fbank.frames,
    fbank.samples,
)
EAT = Front(
    Form("sines", class_tokens=1, norm_first=False),
    partial(_kaldi, mean=-4.268, std=4.569),
    fbank.frames,
    fbank.samples,
)
DASHENG = Front(
    Form("time_and_band", normalised_bands=True),
    mel_decibels.mel_decibels,
    mel_decibels.frames,
    mel_decibels.samples,
    whole=True,
)
