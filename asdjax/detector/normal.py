"""The normal windows that a detector compares with, and its model of them."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float32, Float64, Int

from asdjax.config.interfaces import Backend
from asdjax.detector import calibration, ensemble
from asdjax.detector.ensemble import Ensemble, Tables
from asdjax.detector.prediction import Nearest, Prediction, unlike
from asdjax.errors import DataError
from asdjax.scoring import standardisation
from asdjax.store.detector_file import NormalRecording

_ALMOST_EQUAL = 0.25  # distance (`Ensemble.nearest`); different windows have 0.3 to 1.4
_MOST_COMPARED = 2000  # windows
_MOST = 20_000  # windows in the bank: their distances to each other need 3 GB
_NEAREST = 3  # normal windows that a prediction names


@dataclasses.dataclass(frozen=True)
class NormalWindows:
    """The windows of normal recordings and their features."""

    recordings: tuple[NormalRecording, ...]
    recording: Int[np.ndarray, " N"]
    """The recording of each window, int32."""
    start: Float64[np.ndarray, " N"]
    """Seconds from the beginning of the recording."""
    tables: Mapping[str, np.ndarray]
    """float32 [N, D] by feature."""
    spectra: Float32[np.ndarray, "N S P"]
    """`spectral_map.summary` of each window, for explanations."""

    def with_others(self, others: "NormalWindows") -> "NormalWindows":
        """These windows and others, of other recordings."""
        shifted = others.recording + np.int32(len(self.recordings))
        return NormalWindows(
            (*self.recordings, *others.recordings),
            np.concatenate([self.recording, shifted]),
            np.concatenate([self.start, others.start]),
            {n: np.concatenate([self.tables[n], others.tables[n]]) for n in self.tables},
            np.concatenate([self.spectra, others.spectra]),
        )

    def sorted(self) -> "NormalWindows":
        """The windows in an order that depends neither on the recordings' order nor on names."""
        order = sorted(range(len(self.recordings)), key=lambda i: self.recordings[i].digest)
        place = np.argsort(order)[self.recording]
        rows = np.lexsort([self.start, place])
        return NormalWindows(
            tuple(self.recordings[i] for i in order),
            place[rows].astype(np.int32),
            self.start[rows],
            {name: table[rows] for name, table in self.tables.items()},
            self.spectra[rows],
        )

    def place(self, window: int) -> tuple[str, float]:
        """The name of a window's recording, and where in it the window begins."""
        return self.recordings[self.recording[window]].name, float(self.start[window])


class Model:
    """Scores of windows, and decisions on recordings, given the normal windows.

    Attributes:
        windows: the normal windows, sorted.
        level: intended share of normal recordings without an alarm.
        held_out: each member's scores of the normal windows [K, N], not standardised.
        spreads: mean and deviation of each member's held-out scores.
        median: of the members' mean; subtracted from scores.
        scores: of the normal windows, each compared with other recordings [N].
        threshold: for a recording of one window.
    """

    def __init__(
        self,
        windows: NormalWindows,
        chosen: Sequence[Backend],
        level: float,
        clip_seconds: float,
        *,
        bands: int = 1,
        max_bank: int | None = None,
        seed: int = 0,
        held_out: Float64[np.ndarray, "K N"] | None = None,
    ):
        """Fit the members to the windows, and the threshold to their held-out scores.

        Args:
            windows: in any order.
            chosen: the backends.
            level: see the class.
            clip_seconds: length of a window.
            bands: frequency bands of the features.
            max_bank: most windows to compare with; None: all.
            seed: of their choice.
            held_out: if known already.

        Raises:
            AsdjaxError: there are too few windows.
        """
        self.windows, self.level = windows.sorted(), level
        self._clip_seconds = clip_seconds
        count = len(self.windows.start)
        if min(count, max_bank or count) > _MOST:
            raise DataError(
                f"{count:,} normal windows are too many to compare with each other: give max_bank "
                f"(--max-bank 2000; at most {_MOST:,}), or longer windows"
            )
        self.ensemble = Ensemble(self.windows.tables, chosen, bands=bands, most=max_bank, seed=seed)
        self.held_out = (
            self.ensemble.held_out(self.windows.recording) if held_out is None else held_out
        )
        self.spreads = standardisation.spreads(self.held_out)
        mean = ensemble.combined(standardisation.standardised(self.held_out, self.spreads))
        self.median = float(np.median(mean))
        self.scores = mean - self.median
        self.threshold = calibration.threshold(self.scores, level)

    def standardised(self, tables: Tables) -> Float64[np.ndarray, "K M"]:
        """Each member's scores of new windows, in standard deviations."""
        return standardisation.standardised(self.ensemble.distances(tables), self.spreads)

    def score(self, tables: Tables) -> Float64[np.ndarray, " M"]:
        """The scores of new windows; larger is more anomalous, 0 a typical normal window."""
        return ensemble.combined(self.standardised(tables)) - self.median

    def judge(
        self, found: NormalRecording, scores: Float64[np.ndarray, " n"], start: float, worst: Tables
    ) -> Prediction:
        """The decision on a recording.

        Args:
            found: what is known of the recording.
            scores: of its windows.
            start: beginning of the worst window, seconds.
            worst: features of the worst window, one row each.
        """
        score, windows = float(scores.max()), len(scores)
        threshold = calibration.threshold(self.scores, self.level, windows)
        rows, distances = self.ensemble.nearest(worst, _NEAREST)
        return Prediction(
            file=found.name,
            start=start,
            seconds=found.seconds,
            windows=windows,
            window_scores=tuple(scores.tolist()),
            score=score,
            threshold=threshold,
            ratio=score / threshold if threshold > 0 else None,
            p_value=(
                calibration.p_value(self.scores, score, windows) if windows <= self._most else None
            ),
            alarm=score > threshold,
            nearest=tuple(
                Nearest(*self.windows.place(row), float(distance))
                for row, distance in zip(rows[0], distances[0], strict=True)
            ),
            warnings=(
                *unlike(found, self.windows.recordings, self._clip_seconds),
                *self._on_length(windows),
                *self._on_recordings(),
            ),
        )

    def near_copies(self) -> list[str]:
        """Recordings with a window that is almost equal to one of another recording.

        They are likely copies (in a lossy format, or louder), which make the threshold too low.
        Not looked for among more than 2,000 windows, nor with a trained embedder: it may map
        different recordings of one class to almost the same vector.
        """
        windows = self.windows
        if len(windows.start) > _MOST_COMPARED or self.ensemble.metric == "cosine":
            return []
        distances = self.ensemble.all_distances()
        distances[windows.recording[:, None] == windows.recording[None, :]] = np.inf
        near = np.flatnonzero(distances.min(axis=1) < _ALMOST_EQUAL)
        return sorted({windows.place(int(i))[0] for i in near})

    def cost_of_bank(self) -> float:
        """See `Ensemble.cost_of_bank`."""
        return self.ensemble.cost_of_bank(self.windows.recording)

    def _on_recordings(self) -> tuple[str, ...]:
        if len(self.windows.recordings) > 1:
            return ()
        return (
            "the detector knows a single normal recording: others may alarm because they are "
            "others (fit it with several)",
        )

    @property
    def _most(self) -> int:
        """Windows of the longest recording for which the level is kept."""
        return calibration.longest_calibrated(len(self.scores), self.level)

    def _on_length(self, windows: int) -> tuple[str, ...]:
        if windows <= self._most:
            return ()
        seconds = self._most * self._clip_seconds
        return (
            f"it is longer than the {seconds:.3g} s for which {len(self.scores)} normal windows "
            f"keep level {self.level:g}: an alarm is less certain, and has no p-value",
        )
