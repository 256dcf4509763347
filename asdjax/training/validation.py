"""The loss and accuracy on the training clips that are held out."""

from collections.abc import Sequence

import numpy as np

from asdjax.data import batches
from asdjax.runtime import parallel
from asdjax.training.learner import Learner, TrainState
from asdjax.training.plan import Plan


class Validation:
    """Measures the loss on the held-out clips of a plan, in batches of one shape."""

    def __init__(self, work: Plan, learner: Learner):
        self._work = work
        how = work.config.train.parallel
        self._losses = parallel.inference_step(learner.clip_losses, work.devices, how)

    def __call__(self, state: TrainState) -> dict[str, float]:
        """The means over the held-out clips: `validation_loss` and `validation_accuracy`.

        Each process computes those of some of the clips.

        Args:
            state: on the devices; it is not changed.
        """
        arrays = {"params": state.params, "stats": state.stats, "frozen": state.frozen}
        index, count = parallel.process()
        places = range(len(self._work.held_out))[index::count]
        losses: list[float] = []
        right: list[bool] = []
        for batch, clips in self._batches(places) if places else ():
            found = self._losses(arrays, parallel.split_batch(batch, self._work.devices))
            # [devices, rows / devices]; the rows after `clips` are padding
            losses += np.asarray(found["loss"], np.float64).reshape(-1)[:clips].tolist()
            right += np.asarray(found["right"]).reshape(-1)[:clips].tolist()
        parts = parallel.share([*zip(places, losses, right, strict=True)])
        every = sorted(clip for part in parts for clip in part)  # in the order of one process
        return {
            "validation_loss": float(np.mean([loss for _, loss, _ in every])),
            "validation_accuracy": float(np.mean([is_right for _, _, is_right in every])),
        }

    def _batches(self, places: Sequence[int]) -> batches.LabelledBatches:
        """Those of the held-out clips at some places of their list."""
        work = self._work
        held_out = [work.held_out[place] for place in places]
        clips = [work.clips[i] for i in held_out]
        devices, train = len(work.devices), work.config.train
        most = train.batch_size // train.accumulate // parallel.process()[1]
        return batches.validation_batches(
            [work.corpus.root / clip.path for clip in clips],
            [work.corpus.headers[clip.path].frames for clip in clips],
            work.labels[held_out],
            work.config.audio,
            batch_size=min(most, -(-len(clips) // devices) * devices),
            n_samples=work.n_samples,
            pcm16=work.corpus.pcm16,
            own=work.corpus.own_sound(clips),
        )
