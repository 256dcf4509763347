"""An alarm as the page shows it: the explanation as JSON, and the sound of the worst window."""

import dataclasses
import json
from pathlib import Path, PurePosixPath

import numpy as np

from asdjax.data import audio
from asdjax.data.samples import to_float
from asdjax.detector.detector import Detector
from asdjax.detector.prediction import Prediction

_DECIMALS = 2  # of levels and deviations: shorter


@dataclasses.dataclass(frozen=True)
class Explained:
    """What is told of an alarm."""

    document: bytes
    """JSON, schema asdjax.explanation/1."""
    mp3: bytes
    """The worst window as it was recorded, the channel in use."""

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.document) + len(self.mp3)


def explained(detector: Detector, path: Path, name: str) -> Explained:
    """The explanation of a sound file.

    Args:
        detector: a fitted detector.
        path: of the file.
        name: that it is shown with.

    Raises:
        AsdjaxError: the file is faulty or gone.
    """
    (why,) = detector.explain(path)
    why = dataclasses.replace(why, prediction=without_folders(why.prediction, name))
    document = why.document()
    for key in ("level_db", "deviations"):
        document["map"][key] = np.round(getattr(why.map, key), _DECIMALS).tolist()
    about = detector.description()
    rate = audio.inspect_any(path).rate
    first = round(why.prediction.start * rate)
    last = first + round(about["clip_seconds"] * rate)
    samples = audio.read_any(path, rate, most=last)[first:, about["channel"] - 1]
    text = json.dumps(document, allow_nan=False, separators=(",", ":"))
    return Explained(text.encode(), audio.to_mp3(to_float(samples), rate))


def without_folders(prediction: Prediction, name: str) -> Prediction:
    """A prediction that tells nothing of this machine's folders, under a name."""
    nearest = tuple(
        dataclasses.replace(near, name=PurePosixPath(near.name).name) for near in prediction.nearest
    )
    return dataclasses.replace(prediction, file=name, nearest=nearest)
