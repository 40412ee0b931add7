"""Runs that are gone after a number of checkpoints, as after SIGKILL."""

import pytest

from kd_jax.experiment.run import Run
from kd_jax.training.checkpoints import Checkpoints


def interrupted(workdir, monkeypatch, saves, config):
    """Runs until the given number of checkpoints is written; then the process is gone."""

    class Killed(BaseException):
        pass

    save, count = Checkpoints.save, 0

    def limited(self, *args, **kwargs):
        nonlocal count
        save(self, *args, **kwargs)
        self.wait()
        count += 1
        if count == saves:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Checkpoints, "save", limited)
        Run(config, workdir).run()
