"""The sub-commands: one dataclass each, whose fields are its arguments and options.

`VERBS` lists them. The docstring of a class and of a field is its help. After parsing, the instance
is called; it calls a module of `commands` and may return an exit code. `lost` is the message after
an interruption.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Mapping
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from tyro.conf import Positional, arg

from asdjax import batch_verbs
from asdjax.arguments import (
    ALL_OR_NOTHING,
    ConfigName,
    PoolName,
    UserPath,
    check_overrides,
    locate_weights,
    open_run,
    require_apart,
    require_folder,
)
from asdjax.config import recipe as configs
from asdjax.config import registry, schema
from asdjax.config.interfaces import Backend, ComputeDtype, Threshold
from asdjax.config.recipe import AudioConfig, Config, DatasetConfig, SynthConfig
from asdjax.config.schema import Range
from asdjax.detector_verbs import Explain, Export, Fit, Predict, Serve, Show, Update, Watch
from asdjax.errors import ConfigError, DataError, UsageError
from asdjax.runtime import console
from asdjax.runtime.hosts import Hosts

Recipe = Annotated[
    ConfigName, arg(metavar="CONFIG", help="A recipe's name or the path of a YAML file.")
]
DataRoot = Annotated[
    UserPath,
    arg(metavar="ROOT", help="Root of the data set, or a table of its files (.csv, .parquet)."),
]
RunPath = Annotated[UserPath, arg(metavar="DIR", help="Run directory; created if needed.")]
FinishedRun = Annotated[UserPath, arg(metavar="RUN", help="Run directory.")]
Folder = Annotated[UserPath | None, arg(metavar="DIR")]
Resamples = Annotated[
    int, Range(low=100, high=100_000), arg(help="Number of bootstrap resamples for the intervals.")
]
FIRST_SETTINGS = (
    "seed", "dataset.edition", "audio.clip-seconds", "audio.channel", "model.name",
    "model.weights", "loss.name", "optim.learning-rate", "train.epochs", "train.batch-size",
    "train.validation", "backend.name", "decision.method", "decision.level",
)  # fmt: skip
"""Settings of a recipe that people change first; `--help` shows these, `--help-all` all others."""
Moved = Annotated[
    UserPath | None, arg(help="Root of the data set, if it has moved since training.")
]


@dataclasses.dataclass(frozen=True)
class Synth:
    """Write a synthetic two-channel machine-sound corpus in the DCASE 2026 layout."""

    lost: ClassVar[str] = (
        "machines that were written completely are kept, and the same command continues"
    )
    directory: Positional[Annotated[UserPath, arg(metavar="DIR", help="Folder to write to.")]]
    corpus: Annotated[SynthConfig, arg(name="")] = SynthConfig()

    def __call__(self) -> None:
        from asdjax.synth import corpus as synth

        summary = synth.write(self.directory, self.corpus)
        for words, machines in (("written", summary.written), ("kept", summary.kept)):
            if machines:
                console.say_always(f"{self.directory}: {words} {', '.join(machines)}")
        console.say_always(f"{self.directory}: {summary.clips} clips")


@dataclasses.dataclass(frozen=True)
class Data:
    """Summarise a data set and list its faults (exit code 1 if there are any)."""

    lost: ClassVar[str] = "this command writes nothing"
    first: ClassVar[tuple[str, ...]] = (
        "dataset.edition", "dataset.label", "dataset.skip", "audio.sample-rate", "audio.resample",
        "audio.channel",
    )  # fmt: skip
    root: Positional[DataRoot]
    json: bool = False
    """Print JSON (schema asdjax.data/1) instead of a table."""
    dataset: DatasetConfig = DatasetConfig()
    audio: AudioConfig = AudioConfig()

    def __call__(self) -> int:
        from asdjax.commands import data_report
        from asdjax.data import corpus

        dataset, headers = corpus.survey(self.root, self.dataset, self.audio)
        document = data_report.describe(dataset, headers, self.dataset)
        print(json.dumps(document, indent=1) if self.json else data_report.render(document))
        return int(bool(document["problems"]))


@dataclasses.dataclass(frozen=True)
class Check:
    """Check configuration, data, array shapes and memory, without training."""

    lost: ClassVar[str] = "this command writes nothing"
    recipe: Positional[Recipe]
    data: DataRoot
    json: bool = False
    """Print JSON (schema asdjax.check/1) instead of text."""
    config: Annotated[Config, arg(name="")] = dataclasses.field(default_factory=Config)

    source: ClassVar[str] = "recipe"
    first: ClassVar[tuple[str, ...]] = FIRST_SETTINGS

    @staticmethod
    def defaults(recipe: str) -> Mapping[str, Any]:
        try:
            return {"recipe": recipe, "config": locate_weights(configs.load(recipe))}
        except UsageError as error:  # the recipe is wrong, not the command line
            raise ConfigError(f"{recipe}: model.weights: {error}") from error

    def __call__(self) -> int:
        from asdjax.commands import check, pseudo_labels, score
        from asdjax.data import dcase
        from asdjax.data.corpus import open_corpus, resolved

        corpus = open_corpus(self.data, self.config)
        config = resolved(self.config, corpus)
        score.rehearse(config, dcase.scored_machines(corpus.dataset, config.dataset))
        facts = check.check(config, pseudo_labels.labelled(corpus, config))
        print(json.dumps(facts, indent=1) if self.json else check.render(facts))
        return int(not facts["fits"])


@dataclasses.dataclass(frozen=True)
class Train:
    """Train an embedder; the same command continues after an interruption."""

    lost: ClassVar[str] = (
        "the work since the last checkpoint is lost, and the same command continues from there"
    )
    recipe: Positional[Recipe]
    data: DataRoot
    run: RunPath
    resume: bool = True
    """Continue from the newest checkpoint; --no-resume deletes it and starts again."""
    log: Annotated[Literal["tensorboard"] | None, arg(metavar="tensorboard")] = None
    """tensorboard: write the log also as event files of TensorBoard, to tensorboard/ in the run."""
    hosts: Annotated[Hosts, arg(name="")] = Hosts()
    config: Annotated[Config, arg(name="")] = dataclasses.field(default_factory=Config)

    source: ClassVar[str] = "recipe"
    first: ClassVar[tuple[str, ...]] = FIRST_SETTINGS
    defaults = Check.defaults

    def __call__(self) -> None:
        from asdjax.commands import pseudo_labels, train
        from asdjax.data.corpus import open_corpus, resolved
        from asdjax.store.runs import Run

        require_apart(self.run, self.data)
        corpus = open_corpus(self.data, self.config)
        config, run = resolved(self.config, corpus), Run(self.run)
        if self.resume:
            train.require_same_settings(config, run)
        labelled = pseudo_labels.labelled(corpus, config, run)
        train.train(config, labelled, run, resume=self.resume, log=self.log)


@dataclasses.dataclass(frozen=True)
class Extract:
    """Embed the training and test clips of every scored machine."""

    lost: ClassVar[str] = "finished machines are kept, and the same command continues"
    run: Positional[FinishedRun]
    data: Moved = None
    hosts: Annotated[Hosts, arg(name="")] = Hosts()

    def __call__(self) -> None:
        from asdjax.commands import extract
        from asdjax.data.corpus import open_corpus
        from asdjax.runtime import parallel
        from asdjax.store.runs import Run

        run = open_run(self.run) if parallel.is_first() else Run(self.run)
        config, trained_on = extract.trained_with(run)
        root = self.data or trained_on
        require_apart(self.run, root)
        if self.data is None and not os.path.exists(root):
            raise DataError(f"{root}: the data set is no longer there: name its root with --data")
        extract.extract(run, open_corpus(root, config))


@dataclasses.dataclass(frozen=True)
class Embed:
    """Embed any audio files with a run or converted weights; writes one .npz or .parquet."""

    lost: ClassVar[str] = ALL_OR_NOTHING
    writes: ClassVar[tuple[str, ...]] = ("out",)
    weights: Positional[
        Annotated[UserPath, arg(metavar="WEIGHTS", help="Run directory, or converted weights.")]
    ]
    inputs: Positional[
        Annotated[
            tuple[UserPath, ...],
            arg(
                metavar="FILE_OR_DIR...",
                help_behavior_hint="(one or more)",
                help="Audio files, and folders to search for them.",
            ),
        ]
    ]
    out: Annotated[UserPath, arg(metavar="FILE")]
    """Output file: FILE.npz or FILE.parquet."""
    layer: Annotated[tuple[int, ...], arg(metavar="K [K ...]")] = ()
    """With converted weights: layers whose tokens are concatenated; default: the last layer."""
    pool: PoolName | None = None
    """mean (default with converted weights), or another pooling without weights, with settings as
    in a recipe: "{name: relative_deviation, gamma: 4}"; none: keep all tokens; head: a run's
    trained embedding (its default), or a fine-tuned checkpoint's class probabilities."""
    compute_dtype: ComputeDtype | None = None
    """Precision of large products and convolutions; default: the run's, or auto (float32 on CPUs,
    TensorFloat-32 on GPUs, three passes of bfloat16 on TPUs)."""
    channel: int | Literal["each"] | None = None
    """Channel to embed, counted from 1, or each; default: the run's, or the first."""
    format: Literal["npz", "parquet"] | None = None
    """File format; default: from the extension of --out."""
    overwrite: bool = False
    """Replace the output file if it exists."""

    def __call__(self) -> None:
        from asdjax.commands import embed_files

        require_folder(
            self.weights, "run directory or folder of converted weights", "train or convert"
        )
        embed_files.embed(
            self.weights,
            self.inputs,
            self.out,
            layers=self.layer,
            pool=self.pool,
            compute_dtype=self.compute_dtype,
            channel=self.channel,
            format=self.format,
            overwrite=self.overwrite,
        )


@dataclasses.dataclass(frozen=True)
class Score:
    """Compute anomaly scores, thresholds and decisions; options override the run's settings."""

    lost: ClassVar[str] = "scored machines are kept, and the same command continues"
    run: Positional[FinishedRun]
    backend: Backend = dataclasses.field(default_factory=partial(registry.default, "backend"))
    decision: Threshold = dataclasses.field(default_factory=partial(registry.default, "threshold"))

    source: ClassVar[str] = "run"
    first: ClassVar[tuple[str, ...]] = (
        "backend.name", "backend.metric", "backend.combine-views", "backend.source-neighbours",
        "backend.target-neighbours", "backend.smote.ratio", "decision.method", "decision.level",
    )  # fmt: skip

    @staticmethod
    def defaults(run: str) -> Mapping[str, Any]:
        config = open_run(Path(run)).config()
        return {"backend": config.backend, "decision": config.decision}

    def __call__(self) -> None:
        from asdjax.commands import score

        run = open_run(self.run)
        config = dataclasses.replace(run.config(), backend=self.backend, decision=self.decision)
        score.score(run, check_overrides(config))


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Compute metrics of a run, of several runs (mean, std), or of any challenge submission."""

    lost: ClassVar[str] = "run the same command again"
    runs: Positional[
        Annotated[tuple[UserPath, ...], arg(metavar="[RUN ...]", help="Run directories.")]
    ] = ()
    scores: Folder = None
    """Instead of a run: a folder with anomaly_score_*.csv (and decision_result_*.csv)."""
    truth: Folder = None
    """Labels of evaluation machines: folder with ground_truth_data and ground_truth_domain."""
    by_view: bool = False
    """For one run: a table with each view and with all views combined."""
    resamples: Resamples = 1000
    json: bool = False
    """Print JSON instead of tables (schemas: asdjax docs formats)."""
    markdown: bool = False
    """Print the tables as Markdown."""

    def __call__(self) -> None:
        from asdjax.commands import evaluate

        if bool(self.runs) == (self.scores is not None):
            raise UsageError("evaluate: name run directories, or a folder with --scores")
        if self.by_view and len(self.runs) != 1:
            raise UsageError("evaluate: --by-view needs exactly one run directory: name one")
        runs = [open_run(path) for path in self.runs]
        document: dict[str, Any] | None
        if self.scores is not None:
            if self.truth is None:
                raise UsageError("evaluate: --scores needs --truth, the folder with the labels")
            document = evaluate.evaluate_submission(
                self.scores, self.truth, resamples=self.resamples
            )
        elif self.by_view:
            document = evaluate.by_view(runs[0], resamples=self.resamples, truth=self.truth)
        elif len(runs) > 1:
            document = evaluate.evaluate_runs(runs, resamples=self.resamples, truth=self.truth)
        else:
            document = evaluate.evaluate(runs[0], resamples=self.resamples, truth=self.truth)
        _show(evaluate, document, self.json, self.markdown)
        if document is None:
            print("\n".join(f"the anomaly scores are in {run.path / 'scores'}" for run in runs))


@dataclasses.dataclass(frozen=True)
class Compare:
    """Compare two runs on the same clips, with intervals of the differences."""

    lost: ClassVar[str] = "this command writes nothing"
    run_a: Positional[Annotated[UserPath, arg(metavar="RUN_A", help="Run directory.")]]
    run_b: Positional[Annotated[UserPath, arg(metavar="RUN_B", help="Run directory.")]]
    truth: Folder = None
    """Labels of evaluation machines: folder with ground_truth_data and ground_truth_domain."""
    resamples: Resamples = 1000
    json: bool = False
    """Print JSON (schema asdjax.compare/1) instead of tables."""
    markdown: bool = False
    """Print the tables as Markdown."""

    def __call__(self) -> None:
        from asdjax.commands import compare

        runs = open_run(self.run_a), open_run(self.run_b)
        document = compare.compare(*runs, resamples=self.resamples, truth=self.truth)
        _show(compare, document, self.json, self.markdown)


@dataclasses.dataclass(frozen=True)
class Report:
    """Write a page of HTML on runs and detectors: figures, scores, sounds."""

    lost: ClassVar[str] = ALL_OR_NOTHING
    writes: ClassVar[tuple[str, ...]] = ("out",)
    sources: Positional[
        Annotated[
            tuple[UserPath, ...],
            arg(
                metavar="RUN_OR_DETECTOR...",
                help_behavior_hint="(one or more)",
                help="Run directories, and detectors (.asd).",
            ),
        ]
    ]
    out: Annotated[UserPath, arg(metavar="FILE.html")] = Path("report.html")
    """The page; it needs no other file and no network."""
    data: Moved = None
    truth: Folder = None
    """Labels of evaluation machines: folder with ground_truth_data and ground_truth_domain."""
    log: Annotated[UserPath | None, arg(metavar="FILE.jsonl")] = None
    """Log of asdjax watch, whose last predictions are shown with the detector."""
    embedder: Annotated[UserPath | None, arg(metavar="DIR")] = None
    """Where the detector's run or converted weights are, if they have moved."""
    map: Literal["pca", "umap"] = "pca"
    """How embeddings are shown in two dimensions (umap: pip install 'asdjax[umap]')."""
    overwrite: bool = False
    """Replace the page if it exists."""

    def __call__(self) -> None:
        from asdjax.commands import report

        report.report(
            self.sources,
            self.out,
            data=self.data,
            truth=self.truth,
            log=self.log,
            embedder=self.embedder,
            method=self.map,
            overwrite=self.overwrite,
        )


@dataclasses.dataclass(frozen=True)
class Submit:
    """Package up to four runs as a challenge submission, or verify any package."""

    lost: ClassVar[str] = ALL_OR_NOTHING
    runs: Positional[
        Annotated[tuple[UserPath, ...], arg(metavar="[RUN ...]", help="Run directories, in order.")]
    ] = ()
    info: Annotated[UserPath | None, arg(metavar="YAML")] = None
    """File with the authors' names, institute and addresses (asdjax docs submission)."""
    out: Annotated[UserPath | None, arg(metavar="DIR")] = None
    """Folder in which to make the package."""
    subsets: tuple[Literal["development", "evaluation"], ...] = ("development", "evaluation")
    """Subsets whose machines are packaged; the challenge accepts only evaluation."""
    verify: Folder = None
    """Verify this package (folder or zip) instead of making one; exit code 1 if it has faults."""
    data: Folder = None
    """With --verify: root of the data set, to check that the scored clips are its test clips."""
    edition: Annotated[str, registry.Name("edition")] = "dcase2026"
    """With --verify: edition of the challenge."""

    def __call__(self) -> int:
        if (self.verify is not None) == bool(self.runs):
            raise UsageError("submit: name run directories to package, or a folder with --verify")
        unused = ("info", "out") if self.verify is not None else ("data",)
        for option in unused:
            if getattr(self, option) is not None:
                raise UsageError(f"submit: --{option} cannot be used here: omit it")
        if self.verify is not None:
            return self._verify(self.verify)
        from asdjax.commands import submit

        if self.info is None or self.out is None:
            missing = "info YAML" if self.info is None else "out DIR"
            raise UsageError(f"submit: give --{missing}: see asdjax submit --help")
        runs = [open_run(path) for path in self.runs]
        archive = submit.submit(runs, self.info, self.out, self.subsets)
        console.say_always(f"{archive}: made; no faults in the package itself")
        return 0

    def _verify(self, folder: Path) -> int:
        from asdjax.challenge import verification

        checked, faults = verification.verify(folder, data=self.data, edition=self.edition)
        print(console.printable(checked))
        for line in verification.lines(faults):
            print(f"  {console.printable(line)}")
        print(f"{len(faults) or 'no'} fault{'s' * (len(faults) != 1)} in the package itself")
        return int(bool(faults))


@dataclasses.dataclass(frozen=True)
class RunAll(Train):
    """Train, extract, score and evaluate; finished steps are not repeated."""

    lost: ClassVar[str] = (
        "the same command continues: training from its last checkpoint, extraction with the "
        "unfinished machine"
    )
    json: bool = False
    """Print the metrics as JSON instead of a table."""

    def __call__(self) -> None:
        from asdjax.commands import extract, pseudo_labels, score, train
        from asdjax.data import dcase
        from asdjax.data.corpus import open_corpus, resolved
        from asdjax.runtime import parallel
        from asdjax.store.runs import Run

        require_apart(self.run, self.data)
        run, corpus = Run(self.run), open_corpus(self.data, self.config)
        config = resolved(self.config, corpus)
        if self.resume:
            train.require_same_settings(config, run)
        # fail now, not after hours of training
        score.rehearse(config, dcase.scored_machines(corpus.dataset, config.dataset))
        labelled = pseudo_labels.labelled(corpus, config, run)
        train.train(config, labelled, run, resume=self.resume, log=self.log)
        extract.extract(run, corpus)
        parallel.leave()
        if not parallel.is_first():
            return
        score.score(run)
        Evaluate((self.run,), json=self.json)()


def _show(verb: Any, document: dict[str, Any] | None, as_json: bool, as_markdown: bool) -> None:
    """Print the document of `evaluate` or `compare`."""
    from rich.console import Console

    if document is None:
        print("no scored clip has a label: nothing to evaluate")
    elif as_json:
        print(json.dumps(document, indent=1))
    elif as_markdown:
        print(verb.markdown(document))
    else:
        # a pipe or a file has no width: choose one at which no cell is wrapped
        Console(width=None if sys.stdout.isatty() else 200).print(verb.terminal_table(document))


@dataclasses.dataclass(frozen=True)
class Select:
    """Choose a backend for each machine without anomalies; score follows the choice."""

    lost: ClassVar[str] = "the choice is stored whole or not at all: run the same command again"
    run: Positional[FinishedRun]
    backends: tuple[str, ...] = (
        "nearest_neighbours", "local_density", "variance_minimised", "standardised_domains",
    )  # fmt: skip
    """Backends to try, with their default settings."""
    kinds: tuple[Literal["machines", "draws", "domains", "attributes"], ...] = (
        "machines", "draws", "domains", "attributes",
    )  # fmt: skip
    """Pseudo-anomalies: clips of other machines, values drawn from several clips, the target
    domain, other attributes."""
    seed: Annotated[int, Range(low=0, high=2**32 - 1)] = 0
    """Seed of the draws."""
    dry_run: bool = False
    """Print the choice, and change nothing."""
    json: bool = False
    """Print JSON (schema asdjax.selection/1)."""

    def __call__(self) -> None:
        from asdjax.commands import select

        if not (self.backends and self.kinds):
            raise UsageError("--backends, --kinds: name one or more")
        known = registry.choices("backend")
        for name in self.backends:
            if name not in known:
                raise UsageError(f"--backends {name}: choose among {', '.join(known)}")
        run = open_run(self.run)
        document = select.select(
            run, names=self.backends, kinds=self.kinds, seed=self.seed, store=not self.dry_run
        )
        print(json.dumps(document, indent=1) if self.json else "\n".join(select.words(document)))
        if not self.dry_run:
            print(f"stored in {self.run}: asdjax score {self.run} follows it")


@dataclasses.dataclass(frozen=True)
class Combine:
    """Combine the scores of several runs into a run of its own, and evaluate it."""

    lost: ClassVar[str] = "the combination is not complete: run the same command again"
    runs: Positional[
        Annotated[tuple[UserPath, ...], arg(metavar="RUN RUN...", help="Scored runs.")]
    ]
    out: Annotated[UserPath, arg(metavar="DIR")]
    """The run directory to create."""
    how: Literal["mean", "minimum", "maximum", "rank"] = "mean"
    """mean, minimum, maximum: of the runs' scores, standardised by the training clips' scores;
    rank: mean of their ranks among these."""
    overwrite: bool = False
    """Replace an earlier combination."""

    def __call__(self) -> None:
        from asdjax.commands import combine, score

        if len(self.runs) < 2:
            raise UsageError("combine: name two runs or more")
        for path in self.runs:
            if self.out.resolve().is_relative_to(path.resolve()):
                raise UsageError(f"--out {self.out}: is inside of {path}: choose another folder")
        members = [open_run(path) for path in self.runs]
        score.score(combine.combine(members, self.out, self.how, overwrite=self.overwrite))
        Evaluate((self.out,))()


@dataclasses.dataclass(frozen=True)
class Docs:
    """Print a page of the documentation; without TOPIC, list the pages."""

    lost: ClassVar[str] = "this command writes nothing"
    topic: Positional[Annotated[str | None, arg(metavar="[TOPIC]", help="The page.")]] = None

    def __call__(self) -> None:
        pages = _pages()
        if self.topic is None:
            width = max(map(len, pages))
            for line in pages["index"].splitlines():
                if line.startswith("## "):
                    print(f"{line[3:]}:")
                elif line.startswith("* ["):  # * [name](name.md): summary
                    name, summary = line[3:].split("]", 1)[0], line.split(": ", 1)[1]
                    print(f"  {name:<{width}}  {summary}")
        elif self.topic in pages:
            print(pages[self.topic], end="")
        else:
            hint = schema.similar(self.topic, pages)
            raise UsageError(f"docs: no page {self.topic!r}{hint or ':'} choose {', '.join(pages)}")


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Say what is installed, on which devices it computes, and whether results are right."""

    lost: ClassVar[str] = "this command writes nothing"
    json: bool = False
    """Print JSON (schema asdjax.doctor/1) instead of text."""

    def __call__(self) -> int:
        from asdjax.commands import doctor

        document = doctor.examine()
        print(json.dumps(document, indent=1) if self.json else doctor.render(document))
        return int(bool(document["problems"]))


def _pages() -> dict[str, str]:
    """The pages of the documentation by their topics."""
    files = sorted((resources.files("asdjax") / "docs").iterdir(), key=lambda file: file.name)
    markdown = [file for file in files if file.name.endswith(".md")]
    return {file.name.removesuffix(".md"): file.read_text("utf-8") for file in markdown}


@dataclasses.dataclass(frozen=True)
class Completion:
    """Print a script with which a shell completes asdjax's commands, options and recipes."""

    lost: ClassVar[str] = "this command writes nothing"
    shell: Positional[Annotated[Literal["bash", "zsh", "fish"], arg(metavar="bash|zsh|fish")]]

    def __call__(self) -> None:
        from asdjax.commands import completion
        from asdjax.convert.__main__ import COMMANDS

        several = {"convert": COMMANDS, "batch": Batch.commands}
        every = {n: completion.words(verb) for n, verb in VERBS.items() if n not in several}
        every |= {n: completion.words_of_several(verbs) for n, verbs in several.items()}
        every["docs"] = dataclasses.replace(every["docs"], arguments=tuple(_pages()))
        summaries = {name: str(verb.__doc__).splitlines()[0] for name, verb in VERBS.items()}
        print(completion.script(self.shell, every, summaries), end="")


class Convert:
    """Convert published weights and ASDKit's checkpoints, and back (asdjax convert --help)."""

    lost: ClassVar[str] = ALL_OR_NOTHING


class Batch:
    """Embed or score archives on many machines (asdjax docs scale): plan, run, status, merge."""

    lost: ClassVar[str] = "nothing was done"
    commands: ClassVar[Mapping[str, type[Any]]] = batch_verbs.COMMANDS


JOBS: dict[str, dict[str, type[Any]]] = {
    "your own machine": {"fit": Fit, "predict": Predict, "update": Update, "explain": Explain},
    "live": {"watch": Watch, "serve": Serve, "export": Export},
    "your data": {"data": Data, "synth": Synth},
    "train and score": {
        "run": RunAll,
        "check": Check,
        "train": Train,
        "extract": Extract,
        "embed": Embed,
        "batch": Batch,
        "score": Score,
        "select": Select,
        "combine": Combine,
    },
    "look and compare": {
        "show": Show,
        "evaluate": Evaluate,
        "compare": Compare,
        "report": Report,
    },
    "submission": {"submit": Submit},
    "files of other toolkits": {"convert": Convert},
    "the tool itself": {"docs": Docs, "doctor": Doctor, "completion": Completion},
}
"""The verbs by what they are for, as `asdjax --help` lists them."""
VERBS = {name: verb for verbs in JOBS.values() for name, verb in verbs.items()}

COMPILING = (
    batch_verbs.Plan,
    batch_verbs.Run,
    Check,
    Embed,
    Explain,
    Extract,
    Fit,
    Predict,
    Train,
    Update,
)  # and RunAll, which is a Train
