"""The sub-commands on detectors, see `asdjax.verbs`."""

import dataclasses
import os
from pathlib import Path
from typing import Annotated, Any, ClassVar

from tyro.conf import Positional, arg

from asdjax.arguments import (
    ALL_OR_NOTHING,
    AnyPath,
    ConfigName,
    PathText,
    UserPath,
    require_apart,
    require_folder,
)
from asdjax.config.schema import Range
from asdjax.errors import UsageError

Recordings = Annotated[
    tuple[AnyPath, ...],
    arg(
        metavar="FILE_OR_DIR...",
        help_behavior_hint="(one or more)",
        help="Sound files, and folders to search for them.",
    ),
]
OtherLevel = Annotated[float | None, Range(low=0.5, high=0.9999), arg(metavar="FLOAT")]
DetectorFile = Annotated[
    UserPath, arg(metavar="DETECTOR", help="A file that asdjax fit has written.")
]


@dataclasses.dataclass(frozen=True)
class Fit:
    """Learn from normal recordings of a machine; writes a detector (asdjax docs detector)."""

    lost: ClassVar[str] = ALL_OR_NOTHING
    writes: ClassVar[tuple[str, ...]] = ("out",)
    inputs: Positional[Recordings]
    out: Annotated[UserPath, arg(metavar="FILE.asd")]
    """The detector's file."""
    embedder: Annotated[PathText, arg(metavar="spectral|DIR")] = "spectral"
    """spectral: statistics of spectra, which need no training; or a run directory, or converted
    weights (./spectral for a directory of that name)."""
    backend: Annotated[tuple[str, ...], arg(metavar="NAME [NAME ...]")] = ()
    """Scoring backends; default: nearest_neighbours, and rescaled with rescale_neighbours 2,
    averaged."""
    level: Annotated[float, Range(low=0.5, high=0.9999)] = 0.9
    """Intended share of normal recordings without an alarm."""
    clip_seconds: Annotated[
        float | None, Range(low=0, high=120, above=True), arg(metavar="SECONDS")
    ] = None
    """Length of the windows that are compared; default: the median length of the recordings, or 10
    if that is above 20."""
    hop_seconds: Annotated[float | None, Range(low=0, above=True), arg(metavar="SECONDS")] = None
    """Step between windows; default: their length."""
    channel: Annotated[int | None, Range(low=1, high=2**20), arg(metavar="INT")] = None
    """Channel to use, counted from 1; default: the first, or that of the run."""
    sample_rate: Annotated[int | None, Range(low=1000, high=96_000), arg(metavar="HERTZ")] = None
    """Rate to which recordings are resampled; default: 16000, or that of the weights."""
    max_bank: Annotated[int | None, Range(low=3), arg(metavar="N")] = None
    """Most windows to compare new ones with, chosen to cover all; default: all."""
    seed: Annotated[int, Range(low=0, high=2**32 - 1)] = 0
    """Seed of this choice."""
    train: Annotated[UserPath | None, arg(metavar="RUN")] = None
    """Train System 1's network first, in this run directory, to tell the sub-folders of the
    recordings apart (or machines and attributes of a table), and use it as the embedder. For other
    recipes and settings: asdjax train, then --embedder RUN."""
    skip_faulty: bool = False
    """Leave out faulty and silent recordings instead of refusing them (not with --train)."""
    overwrite: bool = False
    """Replace the detector if it exists."""

    def __call__(self) -> None:
        from asdjax.commands import fit
        from asdjax.detector.detector import Detector

        if self.train is not None:
            return self._train(self.train)
        embedder: str | Path = self.embedder
        if embedder != "spectral":
            embedder, what = Path(embedder), "run directory or folder of converted weights"
            require_folder(embedder, what, "train or convert")
        detector = Detector(embedder, **self._settings())
        options = {"overwrite": self.overwrite, "skip_faulty": self.skip_faulty}
        fit.fit(detector, self.inputs, self.out, **options)

    def _settings(self) -> dict[str, Any]:
        names = (
            "level", "clip_seconds", "hop_seconds", "channel", "sample_rate", "max_bank", "seed",
        )  # fmt: skip
        return {"backend": self.backend or None, **{name: getattr(self, name) for name in names}}

    def _train(self, run: Path) -> None:
        from asdjax.commands import fit, train
        from asdjax.data import conditions, corpus
        from asdjax.detector.detector import Detector
        from asdjax.detector.features import TrainedFeatures
        from asdjax.runtime import console
        from asdjax.store.runs import Run

        for option, given in (
            ("--embedder", self.embedder != "spectral"),
            ("--skip-faulty", self.skip_faulty),
        ):
            if given:
                raise UsageError(f"{option}: cannot be used with --train: omit one of them")
        fit.require_free(self.out, self.overwrite)
        for path in self.inputs:
            require_apart(run, path, "--train")
        dataset = conditions.read(self.inputs)
        channel = conditions.channel(dataset, self.channel)
        config = conditions.recipe(dataset, self.clip_seconds, channel, self.seed)
        detector = Detector(run, **{**self._settings(), "clip_seconds": None, "channel": channel})
        sound, seconds = config.audio, config.audio.clip_seconds
        assert isinstance(seconds, float)
        least = config.model.shortest_input(sound.sample_rate) / sound.sample_rate
        if seconds < least:
            if self.clip_seconds is not None:
                raise UsageError(
                    f"--clip-seconds {self.clip_seconds:g}: too short for a network: give at least "
                    f"{least:g}"
                )
            console.say(
                f"the recordings (median {seconds:.3g} s) are repeated to the {least:g} s that the "
                "network needs"
            )
            seconds = least
            config = dataclasses.replace(
                config, audio=dataclasses.replace(sound, clip_seconds=least)
            )
        paths = [dataset.root / clip.path for clip in dataset.clips]
        detector.require_possible(TrainedFeatures, sound.sample_rate, seconds, paths)
        train.train(config, corpus.check(dataset, config), Run(run))
        fit.fit(detector, paths, self.out, overwrite=self.overwrite)
        console.say(
            f"the network in {run} has learned to tell the conditions apart, so that small "
            "deviations from each count; with few recordings of each, a detector without --train "
            "may be better: compare them on faulty recordings"
        )


@dataclasses.dataclass(frozen=True)
class Predict:
    """Score recordings with a detector: ALARM or ok for each (asdjax docs detector).

    decision: ALARM if the score is above the threshold. score: 0 is a typical normal recording,
    larger is less normal. ratio: score divided by threshold; above 1 is an alarm, close to 1 is
    uncertain. p-value: how likely so high a score is, if the recording is normal. start: where in
    the recording the worst window begins, seconds. nearest: the most similar normal recording.
    """

    lost: ClassVar[str] = ALL_OR_NOTHING
    writes: ClassVar[tuple[str, ...]] = ("csv", "parquet")
    detector: Positional[DetectorFile]
    inputs: Positional[Recordings]
    json: bool = False
    """Print a JSON document per line (schema asdjax.prediction/1) instead of a table."""
    csv: Annotated[UserPath | None, arg(metavar="FILE")] = None
    """Write a table as CSV, too."""
    parquet: Annotated[UserPath | None, arg(metavar="FILE")] = None
    """Write a table as Parquet, too."""
    overwrite: bool = False
    """Replace these files if they exist."""
    fail_on_alarm: bool = False
    """Exit with code 3 if a recording alarms, also if others could not be scored."""
    level: OtherLevel = None
    """Another level than the detector was fitted with."""
    embedder: Annotated[UserPath | None, arg(metavar="DIR")] = None
    """Where the detector's run or converted weights are, if they have moved."""

    def __call__(self) -> int:
        from asdjax.commands import predict
        from asdjax.detector.detector import Detector

        detector = Detector.load(self.detector, embedder=self.embedder, level=self.level)
        return predict.predict(
            detector,
            self.inputs,
            as_json=self.json,
            csv=self.csv,
            parquet=self.parquet,
            overwrite=self.overwrite,
            fail_on_alarm=self.fail_on_alarm,
        )


@dataclasses.dataclass(frozen=True)
class Update:
    """Add normal recordings to a detector: a new season, a new tool (asdjax docs detector)."""

    lost: ClassVar[str] = (
        "the detector is as before, or knows all recordings: run the same command again"
    )
    writes: ClassVar[tuple[str, ...]] = ("out",)
    detector: Positional[DetectorFile]
    inputs: Positional[Recordings]
    out: Annotated[UserPath | None, arg(metavar="FILE.asd")] = None
    """Write a new file instead of replacing the detector."""
    overwrite: bool = False
    """Replace this file if it exists."""
    dry_run: bool = False
    """Say what would change, and write nothing."""
    skip_faulty: bool = False
    """Leave out recordings that are faulty or silent, instead of refusing them."""
    embedder: Annotated[UserPath | None, arg(metavar="DIR")] = None
    """Where the detector's run or converted weights are, if they have moved."""

    def __call__(self) -> None:
        from asdjax.commands import fit

        if self.overwrite and self.out is None:
            raise UsageError("--overwrite: is for the file of --out: omit it")
        fit.update(
            self.detector,
            self.inputs,
            out=self.out,
            overwrite=self.overwrite,
            dry_run=self.dry_run,
            embedder=self.embedder,
            skip_faulty=self.skip_faulty,
        )


@dataclasses.dataclass(frozen=True)
class Explain:
    """Say when, and at which frequencies, recordings differ from normal ones.

    The largest differences first, in standard deviations of the ten most similar normal windows.
    members: the parts of the score, in standard deviations.
    """

    lost: ClassVar[str] = "pictures, if any were written, are kept: add --overwrite to start again"
    detector: Positional[DetectorFile]
    inputs: Positional[Recordings]
    json: bool = False
    """Print a JSON document per line (schema asdjax.explanation/1), with the whole map."""
    png: Annotated[UserPath | None, arg(metavar="DIR")] = None
    """Write a picture of each recording to this folder (needs matplotlib)."""
    overwrite: bool = False
    """Replace these pictures if they exist."""
    embedder: Annotated[UserPath | None, arg(metavar="DIR")] = None
    """Where the detector's run or converted weights are, if they have moved."""

    def __call__(self) -> int:
        from asdjax.commands import explain
        from asdjax.detector.detector import Detector

        detector = Detector.load(self.detector, embedder=self.embedder)
        return explain.explain(
            detector, self.inputs, as_json=self.json, png=self.png, overwrite=self.overwrite
        )


@dataclasses.dataclass(frozen=True)
class Show:
    """Look at recordings: levels, spectrograms, and what a recipe makes of them."""

    lost: ClassVar[str] = "pictures, if any were written, are kept: add --overwrite to start again"
    inputs: Positional[Recordings]
    recipe: Annotated[ConfigName | None, arg(metavar="CONFIG")] = None
    """A recipe's name or the path of a YAML file, whose views are drawn, too."""
    png: Annotated[UserPath | None, arg(metavar="DIR")] = None
    """Write a picture of each recording to this folder instead (needs matplotlib)."""
    overwrite: bool = False
    """Replace these pictures if they exist."""
    json: bool = False
    """Print a JSON document per line (schema asdjax.show/1)."""

    def __call__(self) -> int:
        from asdjax.commands import show

        if self.recipe is not None:
            from asdjax.runtime import devices

            devices.start()
        return show.show(
            self.inputs,
            recipe=self.recipe,
            png=self.png,
            as_json=self.json,
            overwrite=self.overwrite,
        )


@dataclasses.dataclass(frozen=True)
class Watch:
    """Score recordings as they arrive in a folder, or the sound of a microphone; without end.

    A line of JSON (schema asdjax.watch/1) is appended to the log for each recording, and alarms are
    printed. Each file is scored once, also across restarts: the log tells which.
    """

    lost: ClassVar[str] = "recordings in the log are done, and the same command continues"
    detector: Positional[DetectorFile]
    log: Annotated[UserPath, arg(metavar="FILE.jsonl")]
    """Is appended to, and created if missing."""
    folder: Positional[Annotated[UserPath | None, arg(metavar="[DIR]")]] = None
    """The folder where recordings arrive, with its subfolders."""
    confirm: Annotated[str, arg(metavar="K/N")] = "1/1"
    """Alarm only if K of the last N windows are above the threshold, as 3/5."""
    settle: Annotated[float, Range(low=0, high=3600), arg(metavar="SECONDS")] = 2.0
    """A file is complete if it has not changed for so long."""
    interval: Annotated[float, Range(low=0.01, high=3600), arg(metavar="SECONDS")] = 1.0
    """Time between two looks at the folder."""
    once: bool = False
    """End when all files are scored, with exit code 1 if some could not be."""
    microphone: bool = False
    """Listen to a microphone instead (needs sounddevice: pip install 'asdjax[live]')."""
    device: Annotated[str | None, arg(metavar="NAME")] = None
    """Name or number of the microphone; default: the system's."""
    level: OtherLevel = None
    """Another level than the detector was fitted with."""
    embedder: Annotated[UserPath | None, arg(metavar="DIR")] = None
    """Where the detector's run or converted weights are, if they have moved."""

    def __call__(self) -> int:
        from asdjax.commands import watch
        from asdjax.detector.detector import Detector

        confirm = watch.parse_confirm(self.confirm)
        if self.microphone == (self.folder is not None):
            raise UsageError("name a folder or --microphone, one of them")
        detector = Detector.load(self.detector, embedder=self.embedder, level=self.level)
        if self.folder is not None:
            return watch.watch_folder(
                detector,
                self.folder,
                self.log,
                confirm=confirm,
                settle=self.settle,
                interval=self.interval,
                once=self.once,
            )
        from asdjax.data import microphone

        streams = microphone.streams(self.device, detector.channel or 1)
        watch.watch_microphone(detector, streams, self.log, confirm=confirm)
        return 0


@dataclasses.dataclass(frozen=True)
class Serve:
    """Score recordings that come by HTTP; a page at / shows them, and why they alarm.

    curl --data-binary @today.wav http://127.0.0.1:8765/predict
    """

    lost: ClassVar[str] = "the server has stopped"
    detector: Positional[DetectorFile]
    host: str = "127.0.0.1"
    """Address to listen on. All but this machine's own (loopback) need a token."""
    port: Annotated[int, Range(low=0, high=65535)] = 8765
    """0: any free one."""
    token_file: Annotated[UserPath | None, arg(metavar="FILE")] = None
    """File with the token that requests must send, as Authorization: Bearer TOKEN; default: that of
    the environment variable ASDJAX_TOKEN, if it is set."""
    most_bytes: Annotated[int, Range(low=1, high=2**32)] = 64 * 2**20
    """Size of the largest body."""
    most_seconds: Annotated[float, Range(low=0.1, high=7200)] = 600.0
    """Length of the longest recording."""
    most_waiting: Annotated[int, Range(low=1, high=10_000)] = 64
    """Recordings that may wait to be scored; further requests are refused (503)."""
    level: OtherLevel = None
    """Another level than the detector was fitted with."""
    embedder: Annotated[UserPath | None, arg(metavar="DIR")] = None
    """Where the detector's run or converted weights are, if they have moved."""

    def __call__(self) -> None:
        from asdjax.commands import serve
        from asdjax.detector.detector import Detector

        serve.require_libraries()
        token = serve.find_token(self.token_file)
        detector = Detector.load(self.detector, embedder=self.embedder, level=self.level)
        serve.serve(
            detector,
            name=self.detector.stem,
            host=self.host,
            port=self.port,
            token=token,
            most_bytes=self.most_bytes,
            most_seconds=self.most_seconds,
            most_waiting=self.most_waiting,
        )


@dataclasses.dataclass(frozen=True)
class Export:
    """Write a detector as one program that needs JAX alone (asdjax docs live)."""

    lost: ClassVar[str] = ALL_OR_NOTHING
    detector: Positional[DetectorFile]
    out: Positional[Annotated[UserPath, arg(metavar="OUT")]]
    """The file, for jax.export.deserialize."""
    overwrite: bool = False
    """Replace the file if it exists."""
    level: OtherLevel = None
    """Another level than the detector was fitted with."""
    embedder: Annotated[UserPath | None, arg(metavar="DIR")] = None
    """Where the detector's run or converted weights are, if they have moved."""

    def __call__(self) -> None:
        from asdjax.commands import export
        from asdjax.detector.detector import Detector

        both = self.out, self.detector
        if all(map(os.path.exists, both)) and os.path.samefile(*both):
            raise UsageError(
                f"{self.out}: is the detector itself: name another file for the program"
            )
        detector = Detector.load(self.detector, embedder=self.embedder, level=self.level)
        export.export(detector, self.out, overwrite=self.overwrite)
