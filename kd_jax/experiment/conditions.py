"""The conditions of a checkpoint: a run resumes only if none of them has changed."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import jax

from kd_jax.core.hashing import content_hash
from kd_jax.experiment.plan import Plan
from kd_jax.pretrained.class_names import described

PyTree = Any
FLAGS = (
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_enable_x64",
    "jax_threefry_partitionable",
)
"""Settings of JAX that change the numbers: a run resumes only with the same values."""


def conditions(
    plan: Plan, name: str, provenance: Mapping[str, Any], adapters: Mapping[str, PyTree]
) -> dict[str, Any]:
    """Returns the conditions of the checkpoints of a stage.

    Args:
        plan: the plan of the run.
        name: name of the stage.
        provenance: origin and hash of the first weights, by role.
        adapters: first parameters of the adapters that come from another stage.
    """
    train, source = plan.images["train"], plan.spec.data.source
    crop = plan.spec.data.augmentation.crop
    infos = {
        role: dataclasses.replace(
            described(plan.roles.info(name, role), source, train.image_shape), crop=crop
        )
        for role in plan.stages[name].trained
    }
    fingerprints = plan.fingerprints
    meta = {
        "networks": {role: dataclasses.asdict(info) for role, info in infos.items()},
        "weights": provenance,
        "flags": {name: str(getattr(jax.config, name)) for name in FLAGS},
        **{f"{split}_images": hash for split, hash in fingerprints.items()},
    }
    if adapters:
        meta["adapters"] = content_hash(adapters)
    return json.loads(json.dumps(meta))


def comparable(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the conditions of a checkpoint without the paths of the user's own modules.

    The description of the images is left out too: older checkpoints have none, and the hashes of
    the images guard them.
    """
    networks = {
        role: {key: info[key] for key in info if key not in ("imports", "classes", "fit", "crop")}
        for role, info in meta["networks"].items()
    }
    return {**meta, "networks": networks}
