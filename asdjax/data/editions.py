"""The editions of DCASE Challenge Task 2: machines, sections and channels of each year's data."""

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, ClassVar, get_type_hints

from asdjax.config import registry, schema
from asdjax.config.registry import register
from asdjax.config.schema import Range
from asdjax.errors import AsdjaxError, DataError


@dataclasses.dataclass(frozen=True)
class Edition:
    """Machines, sections and channels of one year's data.

    Raises:
        AsdjaxError: a value is of the wrong type.

    Example:
        >>> edition = asdjax.Edition("dcase2027", ("fan", "valve"), ("Sander",), channels=2)
        >>> asdjax.register(edition).name
        'dcase2027'
    """

    kind: ClassVar[str] = "edition"

    name: str
    """The value of `dataset.edition`."""
    development: tuple[str, ...]
    """Machines whose test clips have domain and label in their names."""
    evaluation: tuple[str, ...]
    """Machines with training clips in the additional subset and unlabelled test clips."""
    development_sections: tuple[str, ...] = ("00",)
    evaluation_sections: tuple[str, ...] = ("00",)
    channels: Annotated[int, Range(low=0, high=64)] = 1
    """Channels of every file; 0: any."""
    clips_per_cell: Annotated[int, Range(low=0, high=2500)] = 0
    """Test clips of each domain and label, per machine and section; 0: taken from the data.
    Unlabelled test clips are numbered from 0."""

    def __post_init__(self) -> None:
        hints, where = get_type_hints(type(self), include_extras=True), f"edition {self.name}"
        for field in dataclasses.fields(self):
            value = schema.read(hints[field.name], getattr(self, field.name), field.name, where)
            object.__setattr__(self, field.name, value)  # lists become tuples
        schema.check(type(self), self, "", where)

    @property
    def machines(self) -> frozenset[str]:
        """All machines of the edition."""
        return frozenset(self.development + self.evaluation)

    @property
    def sections(self) -> tuple[str, ...]:
        """All sections of the edition, sorted."""
        return tuple(sorted({*self.development_sections, *self.evaluation_sections}))

    def is_evaluation(self, machine: str, section: str) -> bool | None:
        """Whether a machine's section belongs to the evaluation; None if it is not listed."""
        if machine in self.development and section in self.development_sections:
            return False
        if machine in self.evaluation and section in self.evaluation_sections:
            return True
        return None


AUTO, OWN, NEWEST = "auto", "own", "dcase2026"
"""Values of `dataset.edition`: recognised; data of a user's own; the newest challenge."""
_SEVEN = tuple("ToyCar ToyTrain bearing fan gearbox slider valve".split())

register(Edition("dcase2022", _SEVEN, _SEVEN, ("00", "01", "02"), ("03", "04", "05")))
register(
    Edition(
        "dcase2023",
        _SEVEN,
        tuple("ToyDrone ToyNscale ToyTank Vacuum bandsaw grinder shaker".split()),
    )
)
register(
    Edition(
        "dcase2024",
        _SEVEN,
        tuple(
            "3DPrinter AirCompressor BrushlessMotor HairDryer HoveringDrone RoboticArm Scanner "
            "ToothBrush ToyCircuit".split()
        ),
    )
)
register(
    Edition(
        "dcase2025",
        _SEVEN,
        tuple(
            "AutoTrash BandSealer CoffeeGrinder HomeCamera Polisher ScrewFeeder ToyPet "
            "ToyRCCar".split()
        ),
    )
)
register(
    Edition(
        "dcase2026",
        tuple("ToyCar ToyCarEmu bearingEmu fan gearboxEmu sliderEmu valveEmu".split()),
        tuple("BlowerDustCollector Sander SewingMachine ToothBrush ToyDrone".split()),
        channels=2,
        clips_per_cell=50,
    )
)


register(Edition(OWN, (), (), tuple(f"{i:02d}" for i in range(100)), (), channels=0))


def find_edition(name: str) -> Edition:
    """The edition that is registered under a name."""
    return registry.find("edition", name)


def better_edition(edition: str, machines: Collection[str], *, mono: bool) -> str | None:
    """A warning if a data set seems to be of another edition, else None.

    That is so if another edition has more of its machines, or as many and the right number of
    channels.

    Args:
        edition: the name of the edition that the data set is read as.
        machines: the data set's machines.
        mono: whether all its files have one channel.
    """

    def agreement(name: str) -> tuple[int, bool]:
        known = find_edition(name).machines & set(machines)
        return len(known), mono == (find_edition(name).channels == 1)

    names = [name for name in registry.names("edition") if find_edition(name).machines]
    best = max(map(agreement, names))
    if best[0] == 0 or agreement(edition) == best:
        return None
    likely = [name for name in names if agreement(name) == best]
    return (
        f"read as {edition}, but its machines and channels are those of {' or '.join(likely)}: "
        f"set the edition with --dataset.edition"
    )


def likeliest(machines: Collection[str], sections: Collection[str], *, mono: bool) -> list[str]:
    """The editions that suit a data set of a challenge best, the newest first; at least one.

    Args:
        machines: the data set's machines.
        sections: its sections.
        mono: whether its files have one channel.
    """

    def agreement(name: str) -> tuple[int, int, bool]:
        facts = find_edition(name)
        known = len(facts.machines & set(machines))
        return known, len(set(facts.sections) & set(sections)), mono == (facts.channels == 1)

    names = [name for name in registry.names("edition") if find_edition(name).machines]
    best = max(map(agreement, names))
    if best[0] == 0:
        return [NEWEST]
    return sorted((name for name in names if agreement(name) == best), reverse=True)


def too_old(path: Path, year: int) -> AsdjaxError:
    """The error for data of 2020 or 2021."""
    return DataError(f"{path}: DCASE {year} data is not supported: use an edition from 2022 on")
