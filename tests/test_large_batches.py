"""The code of docs/large_batches.md works as it is written."""

import pathlib
import re
import shlex

import jax.numpy as jnp
import numpy as np
import pytest
from small_stage import BATCH, Dense, dense_frozen, dense_stage

from kd_jax.experiment.config_files import load_config
from kd_jax.experiment.specs import experiment
from kd_jax.methods import KD
from kd_jax.training.remat import REMAT

PAGE = (pathlib.Path(__file__).parents[1] / "docs" / "large_batches.md").read_text()
OWN, GLOBAL, DEVICE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


class Blocks(Dense):
    """A network that could compute its blocks again."""

    remat: bool = False


def test_a_loop_of_ones_own_accumulates_and_averages():
    names = {
        "networks": {"teacher": Dense(width=8), "student": Blocks()},
        "teacher_variables": dense_frozen(dense_stage(KD()))["teacher"],
        "batches": [BATCH, BATCH],
    }
    exec(OWN, names)
    state = names["state"]
    assert state.step == 2
    kernel = names["student_variables"]["params"]["hidden"]["kernel"]
    assert np.abs(kernel - state.params["student"]["hidden"]["kernel"]).max() > 0


def test_jit_over_a_mesh_and_shard_map_are_the_same_step():
    names = {}
    exec("import functools\n" + GLOBAL + DEVICE, names)
    assert names["mesh"].size == 8
    rng = np.random.default_rng(0)
    weights, images, teacher = (
        jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((3, 4), (16, 3), (16, 4))
    )
    labels = jnp.arange(16, dtype=jnp.int32) % 4
    jitted = names["global_step"](weights, images, teacher, labels)
    mapped = names["device_step"](weights, images, teacher, labels)
    assert np.abs(jitted - weights).max() > 1e-3
    np.testing.assert_allclose(jitted, mapped, rtol=1e-5, atol=1e-7)


def test_the_command_sets_keys_that_exist():
    (command,) = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    words = shlex.split(command.replace("\\\n", " "))
    config = load_config("quickstart:smoke")
    given = [word.removeprefix("--config.").split("=") for word in words if "--config." in word]
    assert len(given) == 2
    values = config.to_dict()
    for key, text in given:
        assert key.startswith("stages.student.")
        values["stages"]["student"][key.rpartition(".")[2]] = (
            float(text) if "." in text else int(text)
        )
    stage = experiment(values).stages["student"]
    assert (stage.accumulate, stage.ema_decay) == (2, 0.99)


@pytest.mark.parametrize("kind", REMAT)
def test_every_value_of_remat_is_described(kind):
    assert f"| `{kind}` |" in PAGE
