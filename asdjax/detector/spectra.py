"""The spectra that a detector keeps of its normal windows, to explain what differs from them."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32

from asdjax.detector.features import in_batches, mapped
from asdjax.runtime import parallel
from asdjax.signal import spectral_map


class Spectra:
    """Computes `asdjax.signal.spectral_map` of windows, on all local devices."""

    def __init__(self, sample_rate: int):
        """For waveforms of a sample rate, hertz."""
        self.sample_rate = sample_rate
        self._devices = parallel.local_devices(0)
        self._summary = mapped(_summary, sample_rate, tuple(self._devices))
        self._averages = mapped(_averages, sample_rate, tuple(self._devices))

    def summaries(
        self, waveforms: Sequence[np.ndarray], longest: int
    ) -> Float32[np.ndarray, "N S P"]:
        """The summaries of windows.

        Args:
            waveforms: [T] each, int16 or float in [-1, 1].
            longest: length of the longest window of the detector, samples.
        """
        results = in_batches(self._summary, self._devices, waveforms, longest)
        return np.concatenate([found["summary"] for found in results])[: len(waveforms)]

    def averages(self, waveform: np.ndarray, longest: int) -> list[Float32[np.ndarray, "S P"]]:
        """The averages of one window for each size in time; arguments as for `summaries`."""
        (found,) = in_batches(self._averages, self._devices, [waveform], longest)
        sizes = len(spectral_map.FRAMES) + 1
        return [found[f"values{i}"][0][found[f"inside{i}"][0]] for i in range(sizes)]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy as the sample rate."""
        return Spectra, (self.sample_rate,)


def _summary(sample_rate: int, state: Any, batch: Mapping[str, jax.Array]) -> Any:
    return {"summary": spectral_map.summary(*_clips(batch), sample_rate=sample_rate)}


def _averages(sample_rate: int, state: Any, batch: Mapping[str, jax.Array]) -> Any:
    found = spectral_map.averages(*_clips(batch), sample_rate=sample_rate)
    return {
        **{f"values{i}": values for i, (values, _) in enumerate(found)},
        **{f"inside{i}": inside for i, (_, inside) in enumerate(found)},
    }


def _clips(batch: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    return batch["waveform"], batch["length"].astype(np.int32)
