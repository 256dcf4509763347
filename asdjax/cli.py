"""The command line: one sub-command per verb. Parses, calls, and turns errors into exit codes.

Exit codes: 0 done, 1 bad input (one sentence on standard error), 2 wrong usage, 130 interrupted.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg

from asdjax import config as configs
from asdjax._version import __version__
from asdjax.architectures import ComputeDtype
from asdjax.config import (
    AudioConfig,
    BackendConfig,
    Config,
    DatasetConfig,
    DecisionConfig,
    SynthConfig,
)
from asdjax.errors import AsdjaxError

Recipe = Annotated[str, arg(metavar="CONFIG", help="A recipe's name or the path of a YAML file.")]
DataRoot = Annotated[Path, arg(metavar="DIR", help="Root of the data set.")]
RunPath = Annotated[Path, arg(metavar="DIR", help="Run directory, made when absent.")]
FinishedRun = Annotated[Path, arg(metavar="RUN", help="Run directory.")]
Folder = Annotated[Path | None, arg(metavar="DIR")]
Resamples = Annotated[int, arg(help="Resamples of the bootstrap intervals.")]
Moved = Annotated[Path | None, arg(help="Root of the data set, where it has moved since.")]


@dataclasses.dataclass(frozen=True)
class Synth:
    """Write a synthetic two-channel machine-sound corpus in the DCASE 2026 layout."""

    directory: Positional[Annotated[Path, arg(metavar="DIR", help="Where to write it.")]]
    corpus: Annotated[SynthConfig, arg(name="")] = SynthConfig()

    def __call__(self) -> None:
        from asdjax import synth

        summary = synth.write(self.directory, self.corpus)
        for words, machines in (("written", summary.written), ("kept", summary.kept)):
            if machines:
                print(f"{self.directory}: {words} {', '.join(machines)}")
        print(f"{self.directory}: {summary.clips} clips")


@dataclasses.dataclass(frozen=True)
class Data:
    """Show what a data set holds, and what is wrong with it (then the exit code is 1)."""

    root: Positional[Annotated[Path, arg(metavar="DIR", help="Root of the data set.")]]
    json: bool = False
    """Print one JSON document (schema asdjax.data/1) instead of a table."""
    dataset: DatasetConfig = DatasetConfig()
    audio: AudioConfig = AudioConfig()

    def __call__(self) -> int:
        from asdjax import corpus, inventory

        dataset, headers = corpus.survey(self.root, self.dataset, self.audio)
        document = inventory.describe(dataset, headers, self.dataset)
        print(json.dumps(document, indent=1) if self.json else inventory.render(document))
        return int(bool(document["problems"]))


@dataclasses.dataclass(frozen=True)
class Check:
    """Verify configuration, data, shapes and memory without training."""

    recipe: Positional[Recipe]
    data: DataRoot
    json: bool = False
    """Print one JSON document (schema asdjax.check/1)."""
    config: Annotated[Config, arg(name="")] = Config()

    def __call__(self) -> int:
        from asdjax import dcase, score, train
        from asdjax.corpus import open_corpus

        corpus = open_corpus(self.data, self.config)
        score.rehearse(self.config, dcase.scored_machines(corpus.dataset, self.config.dataset))
        facts = train.check(self.config, corpus)
        print(json.dumps(facts, indent=1) if self.json else train.render_check(facts))
        return int(not facts["fits"])


@dataclasses.dataclass(frozen=True)
class Train:
    """Train an embedder; the same command continues after an interruption."""

    recipe: Positional[Recipe]
    data: DataRoot
    run: RunPath
    resume: bool = True
    """Continue from the newest checkpoint; --no-resume discards it and begins again."""
    config: Annotated[Config, arg(name="")] = Config()

    def __call__(self) -> None:
        from asdjax import train
        from asdjax.corpus import open_corpus
        from asdjax.runs import Run

        corpus = open_corpus(self.data, self.config)
        train.train(self.config, corpus, Run(self.run), resume=self.resume)


@dataclasses.dataclass(frozen=True)
class Extract:
    """Embed the training and test clips of every scored machine."""

    run: Positional[FinishedRun]
    data: Moved = None

    def __call__(self) -> None:
        from asdjax import extract
        from asdjax.corpus import open_corpus
        from asdjax.runs import Run

        run = Run(self.run)
        root = self.data or Path(run.finished_training()["data"])
        if self.data is None and not root.is_dir():
            raise AsdjaxError(f"{root}: the data set is no longer here: name its root with --data")
        extract.extract(run, open_corpus(root, run.config()))


@dataclasses.dataclass(frozen=True)
class Embed:
    """Embed any audio files with a run or with converted weights, into one .npz or .parquet."""

    weights: Positional[
        Annotated[Path, arg(metavar="WEIGHTS", help="Run directory, or converted weights.")]
    ]
    inputs: Positional[
        Annotated[
            tuple[Path, ...],
            arg(metavar="FILE_OR_DIR...", help="Audio files, and directories searched for them."),
        ]
    ]
    out: Annotated[Path, arg(metavar="FILE")]
    """Where to write the embeddings: FILE.npz or FILE.parquet."""
    layer: Annotated[tuple[int, ...], arg(metavar="K [K ...]")] = ()
    """Of converted weights: layers whose tokens are embedded, side by side; default: the last."""
    pool: Literal["mean", "none", "head"] | None = None
    """Mean over tokens; no pooling; or as trained (default of a run; class probabilities)."""
    compute_dtype: ComputeDtype | None = None
    """What large products round to (MultiResNet: convolutions); default: the run's, or float32."""
    channel: int | Literal["each"] | None = None
    """The channel to embed, from 1, or each; default: the run's own, or the first."""
    format: Literal["npz", "parquet"] | None = None
    """Default: by the ending of --out."""
    overwrite: bool = False
    """Replace the file if it is there."""

    def __call__(self) -> None:
        from asdjax import embed

        embed.embed(
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
    """Score a run's embeddings and decide; options change the run's backend and thresholds."""

    run: Positional[FinishedRun]
    backend: BackendConfig = BackendConfig()
    decision: DecisionConfig = DecisionConfig()

    def __call__(self) -> None:
        from asdjax import score
        from asdjax.runs import Run

        run = Run(self.run)
        config = dataclasses.replace(run.config(), backend=self.backend, decision=self.decision)
        configs.validate(config, "command line")
        score.score(run, config)


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Compute metrics of a run, of several (mean and deviation), or of anybody's submission."""

    runs: Positional[
        Annotated[tuple[Path, ...], arg(metavar="[RUN ...]", help="Run directories.")]
    ] = ()
    scores: Folder = None
    """Instead of a run: a folder with anomaly_score_*.csv (and decision_result_*.csv)."""
    truth: Folder = None
    """Folder with ground_truth_data and ground_truth_domain: the labels of evaluation machines."""
    by_view: bool = False
    """Of one run: each view alone and all together in one table."""
    resamples: Resamples = 1000
    json: bool = False
    """Print one JSON document instead of tables (its schema is in the README)."""
    markdown: bool = False
    """Print the tables as Markdown."""

    def __call__(self) -> None:
        from asdjax import evaluate
        from asdjax.runs import Run

        _check_resamples(self.resamples)
        if bool(self.runs) == (self.scores is not None):
            raise AsdjaxError("evaluate: name run directories, or a folder with --scores")
        runs = [Run(path) for path in self.runs]
        for run in runs:
            run.config()
        if self.scores is not None:
            if self.truth is None:
                raise AsdjaxError("evaluate: --scores needs --truth, the folder of the labels")
            document = evaluate.evaluate_submission(
                self.scores, self.truth, resamples=self.resamples
            )
        elif self.by_view:
            if len(runs) > 1:
                raise AsdjaxError("evaluate: --by-view takes one run directory")
            document = evaluate.by_view(runs[0], resamples=self.resamples, truth=self.truth)
        elif len(runs) > 1:
            document = evaluate.evaluate_runs(runs, resamples=self.resamples, truth=self.truth)
        else:
            document = evaluate.evaluate(runs[0], resamples=self.resamples, truth=self.truth)
        _show(evaluate, document, self.json, self.markdown)


@dataclasses.dataclass(frozen=True)
class Compare:
    """Compare two runs on the same clips: is A better than B, and how sure is that?"""

    run_a: Positional[Annotated[Path, arg(metavar="RUN_A", help="Run directory.")]]
    run_b: Positional[Annotated[Path, arg(metavar="RUN_B", help="Run directory.")]]
    truth: Folder = None
    """Folder with ground_truth_data and ground_truth_domain: the labels of evaluation machines."""
    resamples: Resamples = 1000
    json: bool = False
    """Print one JSON document (asdjax.compare/1)."""
    markdown: bool = False
    """Print the tables as Markdown."""

    def __call__(self) -> None:
        from asdjax import compare
        from asdjax.runs import Run

        _check_resamples(self.resamples)
        runs = Run(self.run_a), Run(self.run_b)
        for run in runs:
            run.config()
        document = compare.compare(*runs, resamples=self.resamples, truth=self.truth)
        _show(compare, document, self.json, self.markdown)


@dataclasses.dataclass(frozen=True)
class Submit:
    """Package up to four runs as a challenge submission, or verify anybody's package."""

    runs: Positional[
        Annotated[tuple[Path, ...], arg(metavar="[RUN ...]", help="Run directories, in order.")]
    ] = ()
    info: Annotated[Path | None, arg(metavar="YAML")] = None
    """What only the authors can say: names, institute, addresses (see the README)."""
    out: Annotated[Path | None, arg(metavar="DIR")] = None
    """Where to make the package."""
    subsets: tuple[Literal["development", "evaluation"], ...] = ("development", "evaluation")
    """Subsets whose machines go into the package; the challenge itself takes evaluation."""
    verify: Folder = None
    """Verify this package (folder or zip) instead of making one; faults give exit code 1."""
    data: Folder = None
    """With --verify: root of the data set, whose test clips are then the ones expected."""
    edition: Literal["dcase2022", "dcase2023", "dcase2024", "dcase2025", "dcase2026"] = "dcase2026"
    """With --verify: edition of the challenge."""

    def __call__(self) -> int:
        if (self.verify is not None) == bool(self.runs):
            raise AsdjaxError("submit: name run directories to package, or a folder with --verify")
        unused = ("info", "out") if self.verify is not None else ("data",)
        for option in unused:
            if getattr(self, option) is not None:
                raise AsdjaxError(f"submit: --{option} has no use here: see asdjax submit --help")
        if self.verify is not None:
            return self._verify(self.verify)
        from asdjax import submit
        from asdjax.runs import Run

        for option, value in (("info", self.info), ("out", self.out)):
            if value is None:
                raise AsdjaxError(f"submit: name --{option}")
        runs = [Run(path) for path in self.runs]
        for run in runs:
            run.config()
        archive = submit.submit(runs, self.info, self.out, self.subsets)
        print(f"{archive}: made and verified")
        return 0

    def _verify(self, folder: Path) -> int:
        from asdjax import console, verification

        checked, faults = verification.verify(folder, data=self.data, edition=self.edition)
        print(console.printable(checked))
        for line in verification.lines(faults):
            print(f"  {console.printable(line)}")
        print(f"{len(faults) or 'no'} fault{'s' * (len(faults) != 1)}")
        return int(bool(faults))


@dataclasses.dataclass(frozen=True)
class RunAll(Train):
    """Train, extract, score and evaluate; finished steps are not repeated."""

    json: bool = False
    """Print the metrics as JSON instead of a table."""

    def __call__(self) -> None:
        from asdjax import dcase, extract, score, train
        from asdjax.corpus import open_corpus
        from asdjax.runs import Run

        run, corpus = Run(self.run), open_corpus(self.data, self.config)
        # before hours of training
        score.rehearse(self.config, dcase.scored_machines(corpus.dataset, self.config.dataset))
        train.train(self.config, corpus, run, resume=self.resume)
        extract.extract(run, corpus)
        score.score(run)
        Evaluate((self.run,), json=self.json)()


def _check_resamples(resamples: int) -> None:
    if not 100 <= resamples <= 100_000:
        raise AsdjaxError(f"--resamples: must be between 100 and 100000, found {resamples}")


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
        # a pipe or a file has no width: never fold the figures there
        Console(width=None if sys.stdout.isatty() else 200).print(verb.terminal_table(document))


class Convert:
    """Convert PyTorch checkpoints of BEATs and ASDKit, and back (asdjax convert --help)."""


VERBS: dict[str, type] = {
    "run": RunAll,
    "train": Train,
    "extract": Extract,
    "embed": Embed,
    "score": Score,
    "evaluate": Evaluate,
    "compare": Compare,
    "submit": Submit,
    "check": Check,
    "data": Data,
    "synth": Synth,
    "convert": Convert,
}

COMPILING = (Check, Embed, Extract, Train)  # and RunAll, which is a Train
NO_CACHE = "--no-compile-cache"


def _usage() -> str:
    lines = "\n".join(f"  {name:<9} {verb.__doc__}" for name, verb in VERBS.items())
    return f"""usage: asdjax COMMAND ...

Anomalous sound detection for machine condition monitoring, on JAX (asdjax {__version__}).

commands:
{lines}

recipes: {", ".join(configs.names())}

  asdjax synth data                               a small corpus of synthetic machines
  asdjax run system1 --data data --run runs/one   train, extract, score, evaluate
  asdjax COMMAND --help                           every option with its type and default
  asdjax train system1 --help                     the same, with the recipe's own defaults

Compiled programs are kept in the user's cache directory; with {NO_CACHE} a command compiles
anew and keeps nothing.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    keep_programs = NO_CACHE not in args
    args = [argument for argument in args if argument != NO_CACHE]
    if not args or args[0] in ("-h", "--help"):
        print(_usage(), file=sys.stdout if args else sys.stderr)
        return 0 if args else 2
    if args[0] == "--version":
        print(f"asdjax {__version__}")
        return 0
    if args[0] == "convert":
        from asdjax.convert.__main__ import main as convert

        return convert(args[1:])
    if args[0] not in VERBS:
        print(f"asdjax: no command {args[0]!r}\n\n{_usage()}", file=sys.stderr)
        return 2
    from asdjax import console, host_memory

    own_process = argv is None
    if own_process and issubclass(VERBS[args[0]], COMPILING):
        host_memory.keep()  # first of all: JAX starts threads
    return console.finish(lambda: _carry_out(args, keep_programs), "the same command continues")


def _carry_out(args: list[str], keep_programs: bool) -> int | None:
    command = _parse(args[0], args[1:])
    if isinstance(getattr(command, "config", None), Config):
        configs.validate(command.config, "command line")
    if isinstance(command, COMPILING) and keep_programs:
        _keep_programs()
    return command()


def _keep_programs() -> None:
    """Compile only once per machine; where that cannot be, say so and compile."""
    from asdjax import compile_cache, console

    try:
        compile_cache.use()
    except AsdjaxError as error:
        console.say(f"asdjax: compiling anew: {error}")


def _parse(verb: str, args: list[str]) -> Callable[[], int | None]:
    """Parse a verb's arguments; defaults come from the recipe or the run that they name."""
    kind = VERBS[verb]
    guess = _first_positional(args)
    if kind is Score or any(field.name == "recipe" for field in dataclasses.fields(kind)):
        # With options before it the guess may be an option's value: tyro, which knows every
        # option, has the last word.
        try:
            command = _parse_with(kind, verb, args, guess)
        except AsdjaxError:
            command = None
        seen = command or _parse_with(kind, verb, args, None)
        named = str(seen.run if kind is Score else seen.recipe)
        same = command is not None and named == guess
        return command if same else _parse_with(kind, verb, args, named)
    return _parse_with(kind, verb, args, None)


def _parse_with(kind: type, verb: str, args: list[str], named: str | None) -> Any:
    defaults: dict[str, Any] = {}
    if named is not None and kind is Score:
        from asdjax.runs import Run

        config = Run(named).config()
        defaults = {"backend": config.backend, "decision": config.decision}
    elif named is not None:
        defaults = {"recipe": named, "config": configs.load(named)}
    default = None
    if defaults:
        default = kind(
            **{
                field.name: tyro.MISSING if field.default is dataclasses.MISSING else field.default
                for field in dataclasses.fields(kind)
            }
            | defaults
        )
    if {"-h", "--help"} & set(args):  # tyro leaves out of its help what has been given
        args = [argument for argument in args if argument != named]
    return tyro.cli(
        kind,
        prog=f"asdjax {verb}",
        args=args,
        default=default,
        config=(tyro.conf.AvoidSubcommands,),
    )


def _first_positional(args: Sequence[str]) -> str | None:
    """The first argument that is neither an option nor an option's value."""
    flags = {"--resume", "--no-resume", "--json", "--no-json", "--help"}
    previous = ""
    for argument in args:
        is_option = argument.startswith("-")
        is_value = previous.startswith("--") and "=" not in previous and previous not in flags
        if not is_option and not is_value:
            return argument
        previous = argument if is_option else ""
    return None


if __name__ == "__main__":
    sys.exit(main())
