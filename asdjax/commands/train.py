"""Training: configuration and clips in, checkpoints and training.json out."""

import contextlib
import functools
import logging
import time
from collections.abc import Mapping
from typing import Any, Literal

import jax
import numpy as np

from asdjax.config.recipe import Config, differences, plugins, to_tree
from asdjax.data import audio, batches
from asdjax.data.corpus import Corpus
from asdjax.errors import ArtifactError, AsdjaxError
from asdjax.files.documents import fingerprint
from asdjax.models import parameters
from asdjax.runtime import compile_cache, console, interruption, parallel
from asdjax.store.checkpoint import Checkpoints, Tree, digest
from asdjax.store.event_files import FOLDER, EventFiles
from asdjax.store.run_documents import LATER_SECTIONS, TRAINING_SECTIONS
from asdjax.store.runs import Run
from asdjax.training import memory
from asdjax.training.learner import Learner, TrainState
from asdjax.training.plan import Plan, of_any_length, plan
from asdjax.training.rehearsal import rehearse
from asdjax.training.step_log import Record, StepLog
from asdjax.training.validation import Validation

_LOG = logging.getLogger(__name__)


def train(
    config: Config,
    corpus: Corpus,
    run: Run,
    *,
    resume: bool = True,
    log: Literal["tensorboard"] | None = None,
) -> None:
    """Train, or continue training, until the last epoch's checkpoint is in the run directory.

    A run, finished or not, may go on to more epochs than it was begun with. Several processes
    train together; process 0 alone reads and writes the run.

    Args:
        config: the recipe.
        corpus: the checked data set.
        run: where everything goes.
        resume: continue from the newest checkpoint; false begins again from the first step.
        log: where the log goes besides log.jsonl: to event files in RUN/tensorboard.

    Raises:
        AsdjaxError: the run was begun with other settings or clips, or has been trained for more
            epochs than the recipe states, or the loss is not finite, or processes that train
            together have unlike settings, files or packages.
    """
    events = None if log is None else EventFiles(run.path / FOLDER)
    work = plan(config, corpus)
    learner = work.learner()
    parallel.require_equal(_common(work, resume))
    if not parallel.is_first():
        _train(work, learner, None, resume)
        return
    with run.lock():  # before anything is compared: another process may be training
        if events is not None:
            events.check()
        checkpoints = Checkpoints(run.checkpoints, keep=config.train.keep_checkpoints)
        _train(work, learner, Record(run, checkpoints, events), resume)


def _common(work: Plan, resume: bool) -> dict[str, Any]:
    """What all processes of a training must agree in, by names for the user."""
    about = work.identity()
    return {
        "the settings": fingerprint(to_tree(work.config), resume),
        "the training clips": about["clips"],
        "model.weights": about["pretrained"],
        "the pseudo-labels": about["pseudo"],
        **parallel.host_facts(work.devices),
    }


def _train(work: Plan, learner: Learner, record: Record | None, resume: bool) -> None:
    """Train in this process; process 0 alone has a record."""
    over, epochs = parallel.share(_stand(work, record, resume) if record else (False, 0))[0]
    if over:
        return
    rehearse(work)
    nothing_trains = work.config.model.trains_nothing
    if not nothing_trains and (chosen := memory.fitted(work)) is not work:
        work, learner = chosen, chosen.learner()
        parallel.require_equal({"the memory of their devices": to_tree(work.model)})
    frozen = learner.frozen(work.pretrained) if nothing_trains else {}
    start = [] if nothing_trains else [learner.start(work.pretrained)]  # _loop takes it out
    begun = parallel.share(_prepare(work, record, resume, epochs) if record else None)[0]
    if not nothing_trains:
        _loop(work, learner, start, record, begun)
    elif record is not None:
        result = _result({"params": {"model": {}}}, frozen)
        record.run.write_training({**_meta(work, 0, None, []), **result})
        console.say(f"{record.run.path}: nothing to train")


def _stand(work: Plan, record: Record, resume: bool) -> tuple[bool, int]:
    """Whether training has finished, and the epochs of the run as it stands."""
    config, run, events = work.config, record.run, record.events
    finished: Mapping[str, Any] | None = None
    epochs = config.train.epochs
    if resume and run.was_trained():
        _check_same_settings(run, config)
        epochs = run.training_settings().train.epochs
        if finished := run.training():
            last = run.checkpoints / str(finished["step"])
            if not (last.is_dir() or config.model.trains_nothing):
                console.say(f"{last}: this checkpoint is gone: training goes on from an older one")
                finished = None
    if finished:
        _check_same_work(run, finished, work)
        _check_epochs(run, finished["step"], work)
    if finished and epochs == config.train.epochs:
        _write_config(run, config)
        _write_pseudo_labels(run, work)
        if not _place(work).items() <= finished.items():  # the data set has moved
            run.write_training({**finished, **_place(work)})
        console.say(f"{run.path}: training has finished ({finished['step']} steps)")
        if events is not None:
            events.begin(run.read_log())
            events.close()
        return True, epochs
    return False, epochs


def _prepare(work: Plan, record: Record, resume: bool, epochs: int) -> Mapping[str, Any] | None:
    """Make the run ready for training; what the checkpoint to go on from says of itself."""
    config, run = work.config, record.run
    begun = None
    if resume and not config.model.trains_nothing:
        begun = _begun(run, record.checkpoints, work)
    if not resume:
        run.forget_training()
    elif epochs != config.train.epochs:
        outdated = run.reopen_training()  # first: config.yaml may not differ from the record
        console.say(f"{run.path}: train.epochs was {epochs} and is {config.train.epochs} now")
        if outdated:
            console.say(
                f"{run.path}: its embeddings and scores are of the earlier weights: asdjax run "
                "makes them again, or extract and score"
            )
    _write_config(run, config)
    _write_pseudo_labels(run, work)
    for note in work.notes:
        console.say(note)
    return begun


def _write_config(run: Run, config: Config) -> None:
    """Store the configuration, and say which settings of the later steps it changes."""
    with contextlib.suppress(AsdjaxError):  # a new run, or one whose plugin is gone
        changed = differences(run.config(), config, LATER_SECTIONS)
        if changed:
            console.say(
                f"{run.path}: changed by this command: {'; '.join(changed)} (to keep a setting of "
                "the run, give it as an option)"
            )
    run.write_config(config)


def _write_pseudo_labels(run: Run, work: Plan) -> None:
    if pseudo := work.corpus.pseudo:
        run.write_pseudo_labels(pseudo.classes, pseudo.made_from)


def _begun(run: Run, checkpoints: Checkpoints, work: Plan) -> Mapping[str, Any] | None:
    """What the newest checkpoint says of itself; None if there is none.

    Raises:
        AsdjaxError: training cannot go on from it.
    """
    step = checkpoints.latest()
    if step is None:
        return None
    meta = checkpoints.meta(step)
    _check_same_work(run, meta, work)
    place, stages = meta.get("iterator"), meta.get("stages")
    if not (
        meta.get("step") == step
        and isinstance(place, dict)
        and type(place.get("next_index")) is int
        and isinstance(stages, list)
        and all(isinstance(stage, dict) for stage in stages)
    ):
        raise ArtifactError(
            f"{run.checkpoints / str(step)}: does not say where in the data it was saved: "
            "delete it and train again, or start over with --no-resume"
        )
    _check_epochs(run, step, work)
    return meta


def _loop(
    work: Plan,
    learner: Learner,
    start: list[TrainState],
    record: Record | None,
    begun: Mapping[str, Any] | None,
) -> None:
    config, host_state = work.config, start.pop()
    clips = [work.clips[i] for i in work.trained_on]
    data = batches.TrainingBatches(
        [work.corpus.root / clip.path for clip in clips],
        [work.corpus.headers[clip.path].frames for clip in clips],
        work.labels[work.trained_on],
        config.audio,
        work.epoch,
        n_samples=work.n_samples,
        pcm16=work.corpus.pcm16,
        epochs=config.train.epochs,
        seed=config.seed,
        process=parallel.process(),
        own=work.corpus.own_sound(clips),
    )
    first, stages = 0, []
    if begun is not None:
        first, stages = begun["step"], begun["stages"]
        data.restore(begun["iterator"])
        if record is not None:
            host_state = _restored(work, host_state, record, begun)
    host_state = parallel.of_first(host_state)
    if not stages or stages[-1].get("epochs") != config.train.epochs:
        stages = [*stages, {"epochs": config.train.epochs, "first_step": first}]
    count = parameters.count(host_state.params)
    held_out = f", {len(work.held_out)} clips held out" if work.held_out else ""
    console.say(
        f"training on {len(clips)} clips of {work.n_samples} samples in "
        f"{len(work.classes)} classes{held_out}; {count:,} parameters; {_devices(work)}"
    )
    state = parallel.replicate(host_state, work.devices)
    del host_state  # a gigabyte of BEATs
    step_function = parallel.training_step(learner.step, work.devices, config.train.parallel)
    validation = Validation(work, learner) if work.held_out else None
    log = StepLog(work, record, first)
    any_process = parallel.AnyProcess(work.devices)
    began = time.monotonic()
    with (
        contextlib.ExitStack() as held,
        console.progress("training", work.steps, "steps", done=first) as advance,
    ):
        for step in range(first, work.steps):
            batch = parallel.split_batch(next(data), work.devices)
            if work.devices[0].platform == "cpu":
                # A step holds its scratch memory from its dispatch on: two would hold it twice.
                jax.block_until_ready(state)
            state, metrics = step_function(state, batch)
            if step in (
                first,
                work.epoch.steps - 1,
            ):  # an epoch's last batch has a program of its own
                compile_cache.seal()
            log.add(step, metrics)
            epoch, last_of_epoch = divmod(step + 1, work.epoch.steps)
            if validation is not None and last_of_epoch == 0:
                log.measure(functools.partial(validation, state))
                compile_cache.seal()
            if step == first:
                held.enter_context(interruption.saving_first())  # there is something to save
                log.write(keep=0)  # the first loss at once
                _LOG.info(f"the first step took {time.monotonic() - began:.1f} s, with compiling")
            done = step + 1 == work.steps
            stops = any_process(interruption.is_told()) and not done
            due = last_of_epoch == 0 and (epoch % config.train.checkpoint_every == 0 or done)
            due = due or stops
            if due or log.waiting >= config.train.log_every:
                log.write(keep=0 if due else 1)
            advance(1, log.words)
            if due:
                log.save(step, state, _meta(work, step + 1, data.state(), stages))
            if stops:
                parallel.leave()  # the others wait until the checkpoint is on disk
                interruption.stop(
                    f"step {step + 1} of {work.steps} is saved, and the same command continues "
                    "from there"
                )
    log.close()
    if record is None:
        return
    result = _result(*jax.tree.map(np.asarray, (state.weights, state.frozen)))
    record.run.write_training({**_meta(work, work.steps, None, stages), **result})


def _restored(
    work: Plan, state: TrainState, record: Record, begun: Mapping[str, Any]
) -> TrainState:
    """The state of the checkpoint to go on from."""
    run, step = record.run, begun["step"]
    before, now = begun.get("compute_dtype"), work.model.compute_dtype
    if before not in (None, now):
        console.say(f"{run.path}: was trained in {before}, and goes on in {now} on this device")
    restored = state.with_items(record.checkpoints.restore(step, state.to_items()))
    console.say(f"{run.path}: continuing after step {step} of {work.steps}")
    return restored


def _result(weights: Tree, frozen: Tree) -> dict[str, Any]:
    """What training.json says of the embedder that training ended with."""
    trained = parameters.count(weights["params"]["model"])
    return {
        "parameters": trained + parameters.count(frozen),
        "trained_parameters": trained,
        "digest": digest(weights),
        "frozen": digest(frozen) if frozen else None,
    }


def _place(work: Plan) -> dict[str, Any]:
    """Where the data set is, which may change, skipped files, and channels that its table chose."""
    return {
        "data": str(work.corpus.dataset.source.absolute()),
        "skipped": work.corpus.skipped,
        "channels": _channels(work),
    }


def _channels(work: Plan) -> list[int]:
    """The channels of the training clips, if a table chose some; counted from 1."""
    chosen = {clip.channel for clip in work.clips}
    if chosen == {None}:
        return []
    usual = audio.CHANNELS[work.config.audio.channel]
    return sorted({usual if channel is None else channel for channel in chosen})


def _meta(
    work: Plan, step: int, iterator: dict[str, int] | None, stages: list[dict[str, int]]
) -> dict[str, Any]:
    return {
        **work.identity(),
        "steps": work.steps,
        "step": step,
        "stages": stages,
        "iterator": iterator,
        "seed": work.config.seed,
        "sample_rate": work.config.audio.sample_rate,
        **_place(work),
        "devices": f"{work.device_count} x {work.devices[0].device_kind}",
        "processes": parallel.process()[1],
        "compute_dtype": work.model.compute_dtype,
        "versions": parallel.versions(),
        "config": to_tree(work.config),
    }


def _devices(work: Plan) -> str:
    """The devices of all processes, in words."""
    processes = parallel.process()[1]
    of = f" of {processes} processes" if processes > 1 else ""
    return f"{work.device_count} x {work.devices[0].device_kind}{of}"


def require_same_settings(config: Config, run: Run) -> None:
    """Raise `AsdjaxError` if a run was begun with other settings that its weights depend on."""
    if parallel.is_first() and run.was_trained():
        with run.lock(existing=True):  # as in `train`
            _check_same_settings(run, config)


def _check_same_settings(run: Run, config: Config) -> None:
    old, new = of_any_length(run.training_settings()), of_any_length(config)
    changed = differences(old, new, TRAINING_SECTIONS)
    if changed:
        raise ArtifactError(
            f"{run.path}: this run was begun with other settings ({'; '.join(changed)}): "
            "choose another --run, or --no-resume to begin again"
        )


def _check_epochs(run: Run, step: int, work: Plan) -> None:
    epochs, trained = work.config.train.epochs, step // work.epoch.steps
    if epochs < trained:
        raise ArtifactError(
            f"{run.path}: train.epochs: {epochs}, but this run has been trained for {trained} "
            f"epochs: set it to {trained} or more, or choose another --run, or --no-resume to "
            "begin again"
        )


def _check_same_work(run: Run, stored: Mapping[str, Any], work: Plan) -> None:
    now = work.identity()
    changed = [key for key, value in now.items() if stored.get(key) != value]
    if "settings" in changed and not plugins(to_tree(work.config)):
        changed.remove("settings")  # of an earlier version, which had no use for the new defaults
    if changed == ["pretrained"]:
        raise ArtifactError(
            f"{run.path}: this run was begun with other weights than those of "
            f"{work.pretrained and work.pretrained.path}: name the same with --model.weights, or "
            "choose another --run"
        )
    if changed == ["settings"]:  # though all that its config.yaml says are equal
        raise ArtifactError(
            f"{run.path}: this run was begun by another version of a plugin, "
            "which had other settings: choose another --run, or --no-resume to begin again"
        )
    if changed:
        raise ArtifactError(
            f"{run.path}: the training clips or their batches changed since this run was begun "
            f"({', '.join(changed)}): choose another --run, or --no-resume to begin again"
        )
