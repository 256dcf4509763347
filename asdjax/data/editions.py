"""The DCASE Challenge's editions of Task 2: what each year fixes about its data."""

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, ClassVar, get_type_hints

from asdjax.config import registry, schema
from asdjax.config.registry import register
from asdjax.config.schema import Count, Range
from asdjax.errors import AsdjaxError, DataError


@dataclasses.dataclass(frozen=True)
class Edition:
    """What one year's challenge fixes about its data.

    Raises:
        AsdjaxError: a value is of the wrong type.

    Example:
        >>> asdjax.register(asdjax.Edition("dcase2027", ("fan", "valve"), ("Sander",), channels=2))
    """

    kind: ClassVar[str] = "edition"

    name: str
    """What `dataset.edition` calls it."""
    development: tuple[str, ...]
    """Machines whose test clips carry domain and label in their names."""
    evaluation: tuple[str, ...]
    """Machines whose training clips are the additional subset, their test clips unlabelled."""
    development_sections: tuple[str, ...] = ("00",)
    evaluation_sections: tuple[str, ...] = ("00",)
    channels: Count = 1
    clips_per_cell: Annotated[int, Range(low=0, high=2500)] = 0
    """Test clips of each domain and label, per machine and section; 0: known from the data alone.
    Those without a label in their names are numbered from 0."""

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
        """Whether the edition evaluates on a machine's section; None where it does not know it."""
        if machine in self.development and section in self.development_sections:
            return False
        if machine in self.evaluation and section in self.evaluation_sections:
            return True
        return None


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


def find_edition(name: str) -> Edition:
    """The edition that is registered under a name."""
    return registry.find("edition", name)


def better_edition(edition: str, machines: Collection[str], *, mono: bool) -> str | None:
    """A sentence where a data set looks like another edition's, else None.

    It does where another edition has more of its machines, or has as many and the right number of
    channels.

    Args:
        edition: the name of the edition that the data set is read as.
        machines: the data set's machines.
        mono: whether all its files have one channel.
    """

    def fit(name: str) -> tuple[int, bool]:
        known = find_edition(name).machines & set(machines)
        return len(known), mono == (find_edition(name).channels == 1)

    names = registry.names("edition")
    best = max(map(fit, names))
    if best[0] == 0 or fit(edition) == best:
        return None
    likely = [name for name in names if fit(name) == best]
    return (
        f"read as {edition}, but its machines and channels are those of {' or '.join(likely)}: "
        f"name the right one with --dataset.edition"
    )


def too_old(path: Path, year: int) -> AsdjaxError:
    """The error for data of 2020 or 2021."""
    return DataError(
        f"{path}: DCASE {year} data, which asdjax does not read: use an edition from 2022 on"
    )
