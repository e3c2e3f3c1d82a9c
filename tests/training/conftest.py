"""A tiny plan that trains in a second: three classes of 8 x 8 images, one small network."""

import pytest
from tiny_images import TINY, tiny_images

from deepmad_hw.network.expand import expand
from deepmad_hw.training.jobs import Job
from deepmad_hw.workflows.trial import plan
from deepmad_hw.workflows.trial.records import Recipe


@pytest.fixture
def tiny_plan(tmp_path):
    """Return a function that writes a plan and returns its folder."""

    def write(*, epochs=4, recipe=None, name="plan", test=False):
        folder = tmp_path / name
        train, validation = tiny_images(96, seed=1), tiny_images(48, seed=2)
        parts = {"train": train, "validation": validation} | ({"test": tiny_images(24, seed=3)} if test else {})
        plan.write_images(folder, **parts)
        work = [Job(name=f"net-s{seed}", network="net", seed=seed, epochs=epochs, test=test) for seed in range(2)]
        chosen = recipe or Recipe(batch=32, flips=False)
        plan.write_training_plan(folder, {"net": expand(TINY)}, work, recipe=chosen, train=train)
        return folder

    return write
