"""Keys whose values are not the defaults."""

from small_config import changed

from kd_jax.experiment.defaults import REQUIRED, changes
from kd_jax.experiment.specs import experiment


def found(**assignments):
    return {c.key: (c.value, c.default) for c in changes(experiment(changed(assignments)))}


def test_values_that_differ_are_listed_with_their_defaults():
    keys = found(**{"stages.teacher.ema_decay": 0.9, "data.source": {"name": "digits"}})
    assert keys["stages.teacher.ema_decay"] == (0.9, 0.0)
    assert keys["data.augmentation.crop_padding"] == (1, 0)
    assert keys["stages.student.method.name"] == ("horkd", REQUIRED)
    assert keys["stages.student.optimizers.default.schedule.name"] == ("cosine", "constant")
    assert keys["data.batch_size"] == (16, REQUIRED)
    assert not {"seed", "data.filter", "stages.student.ema_decay"} & set(keys)
