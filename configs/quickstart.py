"""HORKD on real handwritten digits, from raw images to a low-resolution student, in a minute.

    python -m kd_jax.train --config=configs/quickstart.py --workdir=runs/quickstart

Scikit-learn's 1,797 digits (8x8 pixels, nothing is downloaded). A teacher and an assistant see
them at 8x8, the student at 4x4. Beside it the same student trained alone, and distilled from the
teacher without the assistant. Measured accuracies stand in `experiments/results/quickstart.md`.

Arguments: `method=soft_targets` distils by KD instead, `smoke` is as short as possible.
"""

from ml_collections import ConfigDict

from kd_jax.configs import base_config, frozen, parse_argument, stage

METHODS = {
    # weights chosen on a fifth of the training images, never on the test images
    "hybrid_order": {
        "name": "hybrid_order",
        "hard_weight": 1.0,
        "feature_weight": 0.02,
        "pair_weight": 5.0,
        "triplet_weight": 10.0,
        "center_weight": 0.0,
    },
    "soft_targets": {"name": "soft_targets", "temperature": 4.0},
}


def get_config(argument: str | None = None) -> ConfigDict:
    """The experiment."""
    arg = parse_argument(argument, method=tuple(METHODS))
    config = base_config("quickstart")
    config.data.source = {"name": "digits"}
    config.data.batch_size = 64
    config.data.eval_batch_size = 360
    config.data.augmentation.crop_padding = 1
    optimizers = {
        "default": {
            "name": "sgd",
            "learning_rate": 0.1,
            "weight_decay": 5e-4,
            "schedule": {"name": "cosine"},
        }
    }

    def train(method, epochs, **networks):
        epochs = 1 if arg.smoke else epochs
        return stage(method, optimizers, epochs, evaluate_every=10, **networks)

    supervised, distil = {"name": "supervised"}, METHODS[arg.method]
    assistant, student = {"name": "resnet8"}, {"name": "resnet8", "resolution": 4}
    config.stages = {
        "teacher": train(supervised, 30, student={"name": "resnet14"}),
        "assistant": train(distil, 30, teacher=frozen("teacher"), student=assistant),
        "student": train(distil, 60, teacher=frozen("assistant"), student=student),
        "student_direct": train(distil, 60, teacher=frozen("teacher"), student=student),
        "student_alone": train(supervised, 60, student=student),
    }
    config.pipeline = ("teacher", "assistant", "student", "student_direct", "student_alone")
    return config
