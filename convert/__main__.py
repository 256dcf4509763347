"""The command line of the converters: `asdjax convert`, also `python -m asdjax.convert`.

Exit codes are those of `asdjax` (cli.py); parsing and help import nothing numerical.
"""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import tyro
from tyro.conf import Positional, arg

from asdjax.arguments import HELP, ConfigName, UserPath
from asdjax.config.schema import Range
from asdjax.runtime import console, devices

Source = Positional[Annotated[UserPath, arg(metavar="SRC", help="The PyTorch checkpoint.")]]
Weights = Positional[
    Annotated[UserPath, arg(metavar="SRC", help="The safetensors or PyTorch file.")]
]


@dataclasses.dataclass(frozen=True)
class Beats:
    """Convert a BEATs checkpoint, plain or fine-tuned, into a folder of weights."""

    source: Source
    folder: Positional[Annotated[UserPath, arg(metavar="DST", help="The folder to make.")]]
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the stored arrays; bfloat16 rounds them to half the size."""
    overwrite: bool = False
    """Replace an earlier conversion."""

    def __call__(self) -> None:
        """Run the command and print the result."""
        from asdjax.convert import beats

        self._report(
            beats.convert(self.source, self.folder, dtype=self.dtype, overwrite=self.overwrite)
        )

    def _report(self, found: dict[str, Any]) -> None:
        console.say_always(
            f"recognised: {found['recognised']}"
            if found["recognised"]
            else f"not a known file: SHA-256 {found['sha256']}"
        )
        if found["cfg_assumed"]:
            words = ", ".join(f"{key} {value}" for key, value in found["cfg_assumed"].items())
            console.say_always(f"missing in its cfg, set to the reference's defaults: {words}")
        if found["cfg_ignored"]:
            words = ", ".join(found["cfg_ignored"])
            console.say_always(f"unknown keys in its cfg, ignored: {words}")
        console.say_always(f"{self.folder}: {found['parameters']:,} parameters, {found['dtype']}")


@dataclasses.dataclass(frozen=True)
class Openbeats(Beats):
    """Convert a pretrained OpenBEATs checkpoint into a folder of weights, as those of BEATs."""

    fbank_mean: Annotated[float | None, arg(metavar="MEAN")] = None
    """Mean of the filterbank in the pretraining; default: as the file states, else 15.41663."""
    fbank_std: Annotated[float | None, arg(metavar="STD")] = None
    """Its standard deviation; default: as the file states, else 6.55582."""

    def __call__(self) -> None:
        """Run the command and print the result."""
        from asdjax.convert import beats

        found = beats.convert(
            self.source,
            self.folder,
            dtype=self.dtype,
            overwrite=self.overwrite,
            published_as="OpenBEATs",
            fbank_mean=self.fbank_mean,
            fbank_std=self.fbank_std,
        )
        self._report(found)
        mean, std = (found["encoder"][name] for name in ("fbank_mean", "fbank_std"))
        console.say_always(f"filterbank: mean {mean:g}, standard deviation {std:g}")


@dataclasses.dataclass(frozen=True)
class Ast:
    """Convert AST (Audio Spectrogram Transformer), of its authors or of Hugging Face."""

    source: Weights
    folder: Positional[Annotated[UserPath, arg(metavar="DST", help="The folder to make.")]]
    heads: Annotated[int | None, Range(low=1, high=2**10), arg(metavar="N")] = None
    """Attention heads; default: 12 for tokens of 768 values, 16 for 1024."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the stored arrays; bfloat16 rounds them to half the size."""
    overwrite: bool = False
    """Replace an earlier conversion."""
    family: ClassVar[str] = "AST"
    published_as: ClassVar[str] = "AST"

    def __call__(self) -> None:
        """Run the command and print the result."""
        from asdjax.convert import spectrogram

        found = spectrogram.convert(
            getattr(spectrogram, self.family),
            self.source,
            self.folder,
            published_as=self.published_as,
            heads=self.heads,
            dtype=self.dtype,
            overwrite=self.overwrite,
        )
        console.say_always(f"layout {found['layout']}; SHA-256 {found['sha256']}")
        if found["left_out"]:
            words = ", ".join(found["left_out"])
            console.say_always(f"left out, as the encoder does not need them: {words}")
        console.say_always(f"{self.folder}: {found['parameters']:,} parameters, {found['dtype']}")


@dataclasses.dataclass(frozen=True)
class Eat(Ast):
    """Convert EAT (Efficient Audio Transformer), of fairseq or of Hugging Face."""

    family: ClassVar[str] = "EAT"
    published_as: ClassVar[str] = "EAT"


@dataclasses.dataclass(frozen=True)
class Sslam(Eat):
    """Convert SSLAM, which has EAT's network, of fairseq or of Hugging Face."""

    published_as: ClassVar[str] = "SSLAM"


@dataclasses.dataclass(frozen=True)
class Dasheng(Ast):
    """Convert Dasheng (base), of its authors or of Hugging Face."""

    family: ClassVar[str] = "DASHENG"
    published_as: ClassVar[str] = "Dasheng"


@dataclasses.dataclass(frozen=True)
class Verify:
    """Check a folder of converted weights by its digest and the embedding of a fixed sound."""

    folder: Positional[
        Annotated[UserPath, arg(metavar="DST", help="A folder of converted weights.")]
    ]

    def __call__(self) -> None:
        """Run the command and print the result."""
        from asdjax.convert import weights_folder

        difference = weights_folder.verify(self.folder)
        print(
            f"{self.folder}: the weights are unchanged; the embedding of the probe differs by "
            f"{difference:.1e} of its largest value (allowed: {weights_folder.TOLERANCE:g})"
        )


@dataclasses.dataclass(frozen=True)
class Asdkit:
    """Convert a trained ASDKit checkpoint (MultiResNet, or BEATs with adapters) into a run."""

    source: Source
    folder: Positional[Annotated[UserPath, arg(metavar="DST", help="The run directory to make.")]]
    bn_stats: Literal["fresh"] | None = None
    """If the file lacks the running statistics of the pooling's BatchNorm: use 0 and 1, as ASDKit
    does."""
    beats: Annotated[UserPath | None, arg(metavar="CONVERTED")] = None
    """For adapters: their base weights, made by asdjax convert beats."""
    config: Annotated[ConfigName | None, arg(metavar="RECIPE")] = None
    """A recipe's name or the path of a YAML file; default: system1, or asdkit_lora."""
    clip_seconds: Annotated[float | None, arg(metavar="S")] = None
    """Length of the training clips; default: the recipe's."""
    overwrite: bool = False
    """Replace an earlier run made by this command."""

    def __call__(self) -> None:
        """Run the command and print the result."""
        from asdjax.convert import trained

        training = trained.from_asdkit(
            self.source,
            self.folder,
            bn_stats=self.bn_stats,
            pretrained_weights=self.beats,
            recipe=self.config,
            clip_seconds=self.clip_seconds,
            overwrite=self.overwrite,
        )
        if training["converted_from"]["batch_norm"] == "fresh":
            console.say_always(
                "BatchNorm's running statistics are set to 0 and 1: the file has none"
            )
        console.say_always(
            f"{self.folder}: {training['parameters']:,} parameters, {len(training['classes'])} "
            f"classes, clips of {training['n_samples']} samples; next: asdjax extract "
            f"{self.folder} --data DIR"
        )


@dataclasses.dataclass(frozen=True)
class Torch:
    """Write the weights of a run, or converted weights, with PyTorch's names and shapes (.npz)."""

    source: Positional[
        Annotated[UserPath, arg(metavar="RUN", help="Run directory, or converted weights.")]
    ]
    file: Positional[Annotated[UserPath, arg(metavar="DST.npz", help="The file to write.")]]
    overwrite: bool = False
    """Replace an existing file."""

    def __call__(self) -> None:
        """Run the command and print the result."""
        from asdjax.convert import trained

        arrays = trained.to_torch(self.source, self.file, overwrite=self.overwrite)
        console.say_always(f"{self.file}: {arrays} arrays")


COMMANDS: dict[str, Any] = {
    "beats": Beats,
    "openbeats": Openbeats,
    "ast": Ast,
    "eat": Eat,
    "sslam": Sslam,
    "dasheng": Dasheng,
    "verify": Verify,
    "asdkit": Asdkit,
    "torch": Torch,
}


def carry_out(args: Sequence[str]) -> None:
    """Run the converter that the arguments name."""
    command = tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        prog="asdjax convert",
        description="Convert published weights for asdjax, and back, without PyTorch.",
        args=["--help" if argument == HELP[-1] else argument for argument in args],
    )
    devices.start()
    command()


if __name__ == "__main__":
    from asdjax.__main__ import main as start

    sys.argv.insert(1, "convert")
    sys.exit(start())
