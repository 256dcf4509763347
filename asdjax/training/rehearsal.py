"""What extraction and validation will compute, traced before the first step of training."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from asdjax.config.interfaces import View
from asdjax.config.recipe import plugins, to_tree
from asdjax.models import parameters
from asdjax.models.parameters import Tree
from asdjax.signal import views as signal
from asdjax.signal.channels import Channels
from asdjax.signal.view_raw import of_mono
from asdjax.training.plan import Plan

_CLIPS = 2  # in a batch, so that a shape without the clips' axis is seen


def rehearse(work: Plan) -> None:
    """With plugins, trace the views, their embeddings, and the loss of clips that are held out.

    A plugin's classes may return other shapes or types than they must, in what is computed only
    after training. Views that are fitted to clips are fitted to noise.

    Raises:
        AsdjaxError: a class is faulty.
    """
    if not plugins(to_tree(work.config)):
        return  # tracing takes seconds
    learner, views = work.learner(), work.config.extract.views
    if all(work.corpus.headers[clip.path].channels == 1 for clip in work.clips):
        views = tuple(map(of_mono, views))
    channels = 1 + any(view.uses_channel_2 for view in views)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (_CLIPS, channels, work.n_samples))
    waveform, length = noise.astype(np.float32), np.full(_CLIPS, work.n_samples, np.int32)
    learned = {view.name: _learned(view, waveform, length) for view in views if view.learns}

    def embed(state: Tree, waveform: Array, length: Array, learned: dict[str, Array]) -> Any:
        sounds, _ = signal.make(views, waveform, length, learned)
        params = parameters.join(state["params"]["model"], state["frozen"])
        stats = state["stats"]["model"]
        return parameters.apply(learner.graphdef, params, stats, sounds[0], train=False)

    shapes = learner.shapes()
    state = {"params": shapes.params, "stats": shapes.stats, "frozen": shapes.frozen}
    jax.eval_shape(embed, state, waveform, length, learned)
    if work.held_out:
        batch = {"waveform": waveform[:, 0], "label": np.zeros(_CLIPS, np.int32)}
        jax.eval_shape(learner.clip_losses, state, batch)


def _learned(view: View, waveform: np.ndarray, length: np.ndarray) -> np.ndarray:
    """The parameters of a view that is fitted to a batch of clips."""
    clips = Channels(jnp.asarray(waveform), jnp.asarray(length))
    rows, used = map(np.asarray, signal.observed(view, clips))
    return signal.learned(view, rows[used])
