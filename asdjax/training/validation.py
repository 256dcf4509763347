"""The loss and accuracy on the training clips that are held out."""

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

        Args:
            state: on the devices; it is not changed.
        """
        arrays = {"params": state.params, "stats": state.stats, "frozen": state.frozen}
        losses, right = [], []
        for batch, count in self._batches():
            found = self._losses(arrays, parallel.split_batch(batch, self._work.devices))
            # [devices, rows / devices]; the rows after `count` are padding
            losses.append(np.asarray(found["loss"], np.float64).reshape(-1)[:count])
            right.append(np.asarray(found["right"]).reshape(-1)[:count])
        return {
            "validation_loss": float(np.concatenate(losses).mean()),
            "validation_accuracy": float(np.concatenate(right).mean()),
        }

    def _batches(self) -> batches.LabelledBatches:
        work = self._work
        clips = [work.clips[i] for i in work.held_out]
        devices, train = len(work.devices), work.config.train
        most = train.batch_size // train.accumulate // parallel.process()[1]
        return batches.validation_batches(
            [work.corpus.root / clip.path for clip in clips],
            [work.corpus.headers[clip.path].frames for clip in clips],
            work.labels[list(work.held_out)],
            work.config.audio,
            batch_size=min(most, -(-len(clips) // devices) * devices),
            n_samples=work.n_samples,
            pcm16=work.corpus.pcm16,
            own=work.corpus.own_sound(clips),
        )
