"""A whole HORKD chain in seconds: digits and the tiny network. Also a config file for commands.

`online_config` is one stage of EKD on the same images.
"""

import small_stage  # noqa: F401 - registers the network "tiny"
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    optimizers = {"default": {"name": "sgd", "learning_rate": 0.05, "schedule": {"name": "cosine"}}}
    student = {"name": "tiny", "resolution": 4}
    hybrid_order = {"name": "hybrid_order", "feature_weight": 0.1, "pair_weight": 1.0}

    def stage(method, student, teacher=None):
        networks = {"student": student}
        if teacher:
            networks["teacher"] = {"init_from": teacher, "frozen": True}
        return {
            "networks": networks,
            "method": method,
            "optimizers": optimizers,
            "epochs": 2.0,
            "evaluate_every": 0.5,
        }

    supervised = {"name": "supervised"}
    wide = {"name": "tiny", "options": {"width": 2.0}}
    config = ConfigDict()
    config.experiment = "small"
    config.data = {
        "source": {"name": "digits"},
        "train_split": "train[:160]",
        "test_split": "test[:50]",
        "batch_size": 16,
        "eval_batch_size": 24,
        "augmentation": {"crop_padding": 1},
    }
    config.stages = {
        "teacher": stage(supervised, wide),
        "student": stage(hybrid_order, student, "teacher"),
    }
    config.pipeline = ("teacher", "student")
    config.seed = 0
    config.execution = "jit"
    config.num_devices = 1
    config.checkpoint_minutes = 10.0
    return config


def online_config() -> ConfigDict:
    """Two networks that learn side by side, each with a guided module."""
    config = get_config()
    stage = config.stages.teacher.copy_and_resolve_references()
    stage.method = {"name": "evolutionary"}
    stage.networks.teacher = {"name": "tiny", "options": {"width": 2.0}}
    stage.networks.student = {"name": "tiny"}
    stage.epochs = 1.0
    config.stages = {"ekd": stage}
    config.pipeline = ("ekd",)
    return config
