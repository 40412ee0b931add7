"""Mutated configs: each one is either fine, or refused in one sentence before anything is written.

Every value of a config is replaced by values that no user means. The mutations are drawn with a
fixed seed, so that each run of the tests sees the same ones.
"""

import copy
import json
import random
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import small_config

from kd_jax.core.devices import data_mesh
from kd_jax.core.errors import UsageError
from kd_jax.core.files import absolute_path
from kd_jax.experiment.building import to_config
from kd_jax.experiment.keys import override
from kd_jax.experiment.plan import Plan
from kd_jax.experiment.specs import Experiment, experiment

VALUES = (
    *(float("nan"), float("inf"), float("-inf"), -1, 0, -0.5, 1e308, 10**9, 2**31, 2**63),
    *("", "x", "..", "http://x.y/z", "gs://a/b", "\0", "\ud800", None, True, object()),
    *([], {}, [1], [-1.0], [float("nan")], {"name": []}, {"name": ""}, {"name": {}}, {1: 2}),
    10**5000,
)
TEXTS = ("nan", "1e999", "[]", "{}", "{[]: 1}", "{1: 2}", "['kd']", "(", "9" * 5000, "\0", "1j")


def whole(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config with all its defaults."""
    values = json.loads(json.dumps(to_config(experiment(config))))
    for stage in values["stages"].values():
        for network in stage["networks"].values():
            network["frozen"] = None  # it follows the method, which a mutation may change
    return values


def rich_config() -> dict[str, Any]:
    """Returns a config that has every kind of specification."""
    ramp = {"end": 1.0, "epochs": 1.0}
    schedule = {"name": "step", "milestones": [1.0], "factor": 0.1}
    return whole(
        small_config.changed(
            {
                "data.normalization": {"mean": [0.5], "std": [0.5]},
                "data.validation_fraction": 0.25,
                "stages.student.method": {"name": "kd", "soft_weight": ramp},
                "stages.student.networks.student.degradation": {"sizes": [4]},
                "stages.student.evaluators": {
                    "top": {"name": "classification", "top_k": [2]},
                    "near": {"name": "retrieval", "ks": [1]},
                    "pairs": {"name": "verification", "pairs": "pairs.bin"},
                    "faces": {"name": "identification", "images": "faces"},
                },
                "stages.teacher.optimizers.default": {
                    "name": "adamw",
                    "learning_rate": 0.1,
                    "clip_norm": 1.0,
                    "schedule": schedule,
                },
                "stages.teacher.method": {"name": "supervised", "loss": "arcface", "options": {}},
            }
        )
    )


def paths(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yields the path of every value of a config."""
    if path:
        yield path
    if isinstance(values, Mapping):
        for name, inner in values.items():
            yield from paths(inner, (*path, name))


def mutated(values: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """Returns a copy of a config with one value replaced."""
    values = copy.deepcopy(values)
    place = values
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return values


def check(config: dict[str, Any]) -> Experiment | None:
    """Returns the specification of a config, or None where it is refused in one sentence."""
    try:
        spec = experiment(config)
    except UsageError as error:
        assert_sentence(error)
        return None
    json.dumps(to_config(spec), allow_nan=False)
    return spec


def assert_sentence(error: UsageError) -> None:
    text = str(error)
    assert len(text.splitlines()) == 1 and text.endswith("."), text


def test_every_value_is_accepted_or_refused_in_one_sentence():
    generator, config = random.Random(13), rich_config()
    found = list(paths(config))
    refused = 0
    for _ in range(600):
        refused += check(mutated(config, generator.choice(found), generator.choice(VALUES))) is None
    assert refused > 300  # most mutations are nonsense


def test_every_text_of_the_command_line_is_accepted_or_refused_in_one_sentence():
    generator, config = random.Random(13), rich_config()
    keys = [".".join(path) for path in paths(config)]
    for _ in range(300):
        key, text = generator.choice(keys), generator.choice(TEXTS)
        key += generator.choice(("", "", ".x", ".name"))
        try:
            values = override(Experiment, config, {key: text})
        except UsageError as error:
            assert_sentence(error)
        else:
            check(values)


PLANNED = {
    "data.augmentation.crop_padding": (10**9, 2**30),
    "data.augmentation": ({"resized_crop": 10**9},),
    "data.batch_size": (10**9,),
    "data.eval_batch_size": (10**9,),
    "stages.ekd.adapters_from": ("http://x.y/z", "gs://a/b"),
    "stages.ekd.best": ("accuracyy", "validation/accuracy"),
    "stages.ekd.epochs": (1e9, 1e38),
    "stages.ekd.evaluators": (
        {"near": {"name": "retrieval", "ks": [10**6]}},
        {"top": {"name": "classification", "top_k": [11]}},
        {"held": {"name": "classification", "split": "validation"}},
    ),
    "stages.ekd.networks.student.init_from": ("http://x.y/z", "gs://a/b"),
    "stages.ekd.networks.student.options": ({"width": []}, {"width": 1e30}, {"dtype": []}),
    "stages.ekd.networks.student.resolution": (10**9,),
    "num_devices": (0, 10**9),
}


@pytest.mark.parametrize("key", PLANNED)
def test_a_plan_names_the_key_and_writes_nothing(key, tmp_path):
    for value in PLANNED[key]:
        config = small_config.changed({key: value}, small_config.online_config())
        spec = experiment(config)
        with pytest.raises(UsageError) as error:
            Plan(spec, absolute_path(tmp_path), data_mesh(spec.num_devices))
        assert_sentence(error.value)
        assert (key.rpartition(".")[0] or key) in str(error.value), error.value
        assert not list(tmp_path.iterdir())
