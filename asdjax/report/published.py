"""Published figures of the development machines of DCASE 2026 Task 2, per cent."""

import csv
import io
from importlib import resources

DEVELOPMENT = ("ToyCar", "ToyCarEmu", "bearingEmu", "fan", "gearboxEmu", "sliderEmu", "valveEmu")
"""The machines, each with 200 test clips."""
TEST_CLIPS = 200
BASELINE = {"baseline, mean squared error": 56.66, "baseline, Mahalanobis": 57.66}
"""Official scores of the challenge's baseline, an autoencoder, with its two ways of scoring."""


def table1() -> dict[str, dict[tuple[str, str], float]]:
    """Table 1 of J. Xia's report: system -> (machine, figure) -> per cent.

    The figures are `auc_source`, `auc_target`, `pauc` and `score`, their harmonic mean; the machine
    `all` has harmonic means. The AUCs are within-domain.

    Example:
        >>> table1()["system1"]["fan", "auc_source"]
        71.92
    """
    text = (resources.files("asdjax.report") / "table1.csv").read_text("utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    systems = [name for name in rows[0] if name.startswith("system")]
    return {
        system: {(row["machine"], row["figure"]): float(row[system]) for row in rows}
        for system in systems
    }
