"""A config of two small stages: a teacher, and a student with a trained adapter."""

from faults import two_layers  # noqa: F401 - registers the network
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    optimizers = {"default": {"name": "sgd", "learning_rate": 0.05, "momentum": 0.9}}
    common = {"optimizers": optimizers, "epochs": 1.2, "evaluate_every": 0.4}
    teacher = {"name": "faults_network", "options": {"width": 2.0}}
    student = {"name": "faults_network", "resolution": 4}
    config = ConfigDict()
    config.experiment = "chain"
    config.data = {
        "source": {"name": "digits"},
        "train_split": "train[:160]",
        "test_split": "test[:48]",
        "batch_size": 16,
        "eval_batch_size": 24,
        "augmentation": {"crop_padding": 1},
    }
    config.checkpoint_minutes = 60.0  # saved at evaluations only, so that all runs save alike
    config.stages = {
        "teacher": {"networks": {"student": teacher}, "method": {"name": "supervised"}, **common},
        "student": {
            "networks": {"student": student, "teacher": {"init_from": "teacher"}},
            "method": {"name": "cc"},
            **common,
        },
    }
    config.num_devices = None
    return config
