"""Sound from a microphone, by the library sounddevice (extra `live`)."""

import importlib
import queue
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float32

from asdjax.errors import ArtifactError, DataError
from asdjax.runtime import console

_BUFFERED = 30.0  # seconds of sound that may wait to be scored
_BLOCK = 0.1  # seconds per chunk
_SILENT = 10.0  # seconds without sound after which the microphone counts as lost


def streams(device: str | None, channels: int) -> Iterator[tuple[int, Iterator[Any]]]:
    """The sample rate and the chunks of sound without gaps, again after each gap.

    The device is looked for at once, and opened when the first chunk is asked for. A gap arises if
    sound comes faster than it is taken: what does not fit into a buffer of 30 s is lost, which is
    said.

    Args:
        device: name or number of an input device; None: the system's.
        channels: how many to record.

    Raises:
        AsdjaxError: sounddevice is missing, or the device fails.
    """
    library = _library()
    chosen: Any = int(device) if device is not None and device.isdecimal() else device
    try:
        rate = int(library.query_devices(chosen, "input")["default_samplerate"])
    except (ValueError, library.PortAudioError) as error:
        raise DataError(
            f"microphone {device or '(default)'}: {error}: python -m sounddevice lists the devices"
        ) from error
    return _streams(library, chosen, rate, channels)


def _streams(
    library: Any, device: Any, rate: int, channels: int
) -> Iterator[tuple[int, Iterator[Any]]]:
    waiting: queue.Queue[tuple[np.ndarray, bool]] = queue.Queue(round(_BUFFERED / _BLOCK))
    gap = [False]  # whether sound is missing before the next chunk

    def received(samples: np.ndarray, frames: int, time: Any, status: Any) -> None:
        gap[0] |= bool(status)  # the system has lost some
        try:
            waiting.put_nowait((samples.copy(), gap[0]))
            gap[0] = False
        except queue.Full:
            gap[0] = True

    try:
        with library.InputStream(
            samplerate=rate, blocksize=round(_BLOCK * rate), device=device, channels=channels,
            dtype="float32", callback=received,
        ):  # fmt: skip
            after_gap: list[np.ndarray] = []
            while True:
                yield rate, _chunks(waiting, after_gap)
                console.say("microphone: a gap: sound came faster than it could be scored")
    except library.PortAudioError as error:
        raise DataError(f"microphone {device or '(default)'}: {error}") from error


def _chunks(
    waiting: "queue.Queue[tuple[np.ndarray, bool]]", after_gap: list[np.ndarray]
) -> Iterator[Float32[np.ndarray, "T channels"]]:
    """Chunks until some are missing; the next one is then in `after_gap`."""
    if after_gap:
        yield after_gap.pop()
    while True:
        try:
            samples, gap = waiting.get(timeout=_SILENT)
        except queue.Empty:
            raise DataError("microphone: no more sound comes: is it connected?") from None
        if gap:
            after_gap.append(samples)
            return
        yield samples


def _library() -> Any:
    try:
        return importlib.import_module("sounddevice")
    except ModuleNotFoundError:
        raise ArtifactError("--microphone needs sounddevice: pip install 'asdjax[live]'") from None
    except OSError as error:  # the library PortAudio is missing
        raise ArtifactError(
            f"--microphone: {error}: install it (on Debian: apt-get install libportaudio2)"
        ) from error
