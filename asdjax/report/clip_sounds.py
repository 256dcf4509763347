"""The sounds of a run's clips for its report, if they are those that were scored."""

import os
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from asdjax.data import audio, corpus, dcase, editions
from asdjax.data.samples import to_float
from asdjax.errors import DataError
from asdjax.files.documents import fingerprint
from asdjax.report.facts import Facts

_LONGEST = 20.0  # seconds of a recording that is shown


class ClipSounds:
    """The data set of a run."""

    def __init__(self, run: Facts, data: Path | None = None):
        """Examine a data set.

        Args:
            run: the run.
            data: root of the data set or its table, if it has moved since training.

        Raises:
            AsdjaxError: there is no data set.
        """
        self._run, config = run, run.config
        source = Path(run.training["data"]) if data is None else data
        if not os.path.exists(source):
            raise DataError(f"{source}: the data set is not there (where it is now: --data)")
        found, headers = corpus.survey(source, config.dataset, config.audio)
        self.problems = found.problems
        """Of its files and folders."""
        self.rate = config.audio.sample_rate
        """Of all sounds, hertz."""
        self.root = found.root
        """The clips' paths are relative to this folder."""
        kept = [clip for clip in found.clips if clip.path in headers]
        self._clips = {clip.path: clip for clip in kept}
        self._verified: set[str] = set()
        any_sound = found.edition == editions.OWN or audio.is_resampled(found, config.audio)
        self._corpus = corpus.Corpus(found, headers, {}, config.audio.sample_rate, any_sound)

    def _require_scored(self, machine: str) -> None:
        """Raise `AsdjaxError` if a machine's clips are not those that were embedded."""
        if machine in self._verified:
            return
        paths = {str(p) for of in self._run.sections if of.machine == machine for p in of.path}
        missing = sorted(paths - self._clips.keys())
        if missing:
            raise DataError(f"{self.root / missing[0]}: missing, or faulty")
        clips = [self._clips[path] for path in sorted(paths)]
        if fingerprint(self._corpus.digests(clips)) != self._run.made_from[machine].clips:
            raise DataError(
                f"{self.root}: the files of {machine} are not those that were scored: name the "
                "data set, or its table, with --data, or run asdjax extract again"
            )
        self._verified.add(machine)

    def read(self, machine: str, path: str) -> Float32[np.ndarray, " T"]:
        """The beginning of a clip, in the channel and at the sample rate that the run uses.

        Raises:
            AsdjaxError: the clip cannot be read, or the machine's files are not those that were
                scored.
        """
        self._require_scored(machine)
        config, clip = self._run.config.audio, self._clips[path]
        samples = audio.read_any(
            self.root / path, config.sample_rate, most=round(_LONGEST * config.sample_rate)
        )
        return to_float(samples[:, self._channel(clip, samples.shape[1])])

    def _channel(self, clip: dcase.Clip, channels: int) -> int:
        wanted = audio.CHANNELS[self._run.config.audio.channel]
        if clip.channel is not None:
            wanted = clip.channel
        return min(wanted, channels) - 1  # of mono files the only one
