"""The DCASE Challenge's editions of Task 2: what each year fixes about its data."""

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType

from asdjax.errors import AsdjaxError


@dataclasses.dataclass(frozen=True)
class Edition:
    """What one year's challenge fixes about its data."""

    development: tuple[str, ...]
    """Machines whose test clips carry domain and label in their names."""
    evaluation: tuple[str, ...]
    """Machines whose training clips are the additional subset, their test clips unlabelled."""
    development_sections: tuple[str, ...] = ("00",)
    evaluation_sections: tuple[str, ...] = ("00",)
    channels: int = 1

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

EDITIONS: Mapping[str, Edition] = MappingProxyType(
    {
        "dcase2022": Edition(_SEVEN, _SEVEN, ("00", "01", "02"), ("03", "04", "05")),
        "dcase2023": Edition(
            _SEVEN, tuple("ToyDrone ToyNscale ToyTank Vacuum bandsaw grinder shaker".split())
        ),
        "dcase2024": Edition(
            _SEVEN,
            tuple(
                "3DPrinter AirCompressor BrushlessMotor HairDryer HoveringDrone RoboticArm "
                "Scanner ToothBrush ToyCircuit".split()
            ),
        ),
        "dcase2025": Edition(
            _SEVEN,
            tuple(
                "AutoTrash BandSealer CoffeeGrinder HomeCamera Polisher ScrewFeeder ToyPet "
                "ToyRCCar".split()
            ),
        ),
        "dcase2026": Edition(
            tuple("ToyCar ToyCarEmu bearingEmu fan gearboxEmu sliderEmu valveEmu".split()),
            tuple("BlowerDustCollector Sander SewingMachine ToothBrush ToyDrone".split()),
            channels=2,
        ),
    }
)


def better_edition(edition: str, machines: Collection[str], *, mono: bool) -> str | None:
    """A sentence where a data set looks like another edition's, else None.

    It does where another edition has more of its machines, or has as many and the right number of
    channels.

    Args:
        edition: the key of `EDITIONS` that the data set is read as.
        machines: the data set's machines.
        mono: whether all its files have one channel.
    """

    def fit(name: str) -> tuple[int, bool]:
        known = EDITIONS[name].machines & set(machines)
        return len(known), mono == (EDITIONS[name].channels == 1)

    best = max(map(fit, EDITIONS))
    if best[0] == 0 or fit(edition) == best:
        return None
    likely = [name for name in EDITIONS if fit(name) == best]
    return (
        f"read as {edition}, but its machines and channels are those of {' or '.join(likely)}: "
        f"name the right one with --dataset.edition"
    )


def too_old(path: Path, year: int) -> AsdjaxError:
    """The error for data of 2020 or 2021."""
    return AsdjaxError(
        f"{path}: DCASE {year} data, which asdjax does not read: use an edition from 2022 on"
    )
