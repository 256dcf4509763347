"""Settings that fit a device's memory: chosen by what the compiler states."""

import dataclasses

import jax
import numpy as np
import pytest
from conftest import TESTS

from asdjax.config import recipe as configs
from asdjax.data.batches import plan_epoch
from asdjax.runtime import parallel
from asdjax.training import memory
from asdjax.training.plan import Plan

pytestmark = pytest.mark.usefixtures("compiled_fast")


class Corpus:
    pcm16 = True


def planned(**model):
    config = configs.load(str(TESTS / "tiny_beats.yaml"))
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, **model))
    return Plan(
        config, Corpus(), (), ("a", "b", "c"), np.zeros(0, np.int32), 16000,
        jax.local_devices()[:1], plan_epoch(16, 16, 1, False), None, (),
    )  # fmt: skip


def with_limit(monkeypatch, limit):
    monkeypatch.setattr(parallel, "memory_limit", lambda device: limit)


def test_the_first_remat_that_fits_is_chosen(monkeypatch):
    needed = {way: memory.step_bytes(planned(remat=way)) for way in ("none", "attention", "full")}
    assert needed["none"] > needed["attention"] > needed["full"]
    with_limit(monkeypatch, needed["attention"])
    assert memory.fitted(planned()).model.remat == "attention"
    # without compiling each again for each limit
    monkeypatch.setattr(memory, "step_bytes", lambda work: needed[work.model.remat])
    for way, limit in (*needed.items(), ("full", 1)):
        with_limit(monkeypatch, limit)
        chosen = memory.fitted(planned())
        assert chosen.model.remat == chosen.learner().config.model.remat == way


def test_a_device_without_a_limit_and_a_stated_setting_choose_nothing(monkeypatch):
    with_limit(monkeypatch, None)
    work = planned()
    assert memory.fitted(work) is work
    with_limit(monkeypatch, 1)
    work = planned(remat="attention")
    assert memory.fitted(work) is work


@pytest.mark.slow  # compiles several programs
def test_remedies_name_remat_before_parts(monkeypatch):
    work = planned(remat="attention")
    needed = memory.step_bytes(planned(remat="full"))
    assert memory.remedy(work, lambda size: size <= needed) == "--model.remat full"
    options = memory.remedy(work, lambda size: size < needed)
    assert options.startswith("--model.remat full --train.accumulate ")
    assert memory.remedy(work, lambda size: False) is None


def test_remedies_for_fewer_clips_than_a_batch(monkeypatch):
    """Parts that the clips cannot be divided into are left out, others cut the batch."""
    work = dataclasses.replace(planned(remat="full"), epoch=plan_epoch(7, 16, 1, False))
    tried = []

    def needed(plan):
        tried.append((plan.config.train.accumulate, plan.epoch.largest))
        return 1

    monkeypatch.setattr(memory, "step_bytes", needed)
    assert memory.remedy(work, lambda size: False) is None
    assert tried == [(2, 6)]  # 4 parts would be of single clips


def test_a_compiler_that_refuses_is_a_step_that_does_not_fit(monkeypatch):
    class Lowered:
        def compile(self):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 17 G of 15.75 G")

    class Step:
        def lower(self, *_):
            return Lowered()

    monkeypatch.setattr(parallel, "training_step", lambda *_: Step())
    assert memory.step_bytes(planned()) is None
    with_limit(monkeypatch, 2**40)
    assert memory.fitted(planned()).model.remat == "full"
    assert memory.remedy(planned(), lambda size: True) is None
