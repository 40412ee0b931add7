"""HORKD on real handwritten digits, from raw images to a low-resolution student, in a minute.

    kd-jax train --config=quickstart --workdir=runs/quickstart

The images are scikit-learn's 1,797 digits (8x8 pixels; nothing is downloaded). A teacher and an
assistant see them at 8x8, the student at 4x4. For comparison, the same student is trained alone,
and distilled from the teacher without the assistant. The measured accuracies are in
`experiments/results/quickstart.md`.

Arguments: `method=kd` distills by KD instead; `smoke` is as short as possible.
"""

from ml_collections import ConfigDict

from kd_jax.experiment import from_stage, parse_argument, stage

METHODS = {
    # The weights were chosen on a fifth of the training images, never on the test images.
    "horkd": {
        "name": "horkd",
        "feature_weight": 0.02,
        "pair_weight": 5.0,
        "triplet_weight": 10.0,
        "center_weight": 0.0,
        "normalize": False,
        "reduction": "mean",
    },
    "kd": {"name": "kd"},
}


def get_config(argument: str | None = None) -> ConfigDict:
    """Returns the experiment."""
    arg = parse_argument(argument, method=tuple(METHODS))
    optimizers = {
        "default": {
            "name": "sgd",
            "learning_rate": 0.1,
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "schedule": {"name": "cosine"},
        }
    }

    def train(method, epochs, **networks):
        epochs = 1 if arg.smoke else epochs
        return stage(method, optimizers, epochs, evaluate_every=10, **networks)

    supervised, distill = {"name": "supervised"}, METHODS[arg.method]
    assistant, student = {"name": "resnet8"}, {"name": "resnet8", "resolution": 4}
    config = ConfigDict()
    config.experiment = "quickstart"
    config.data = {
        "source": {"name": "digits"},
        "batch_size": 64,
        "eval_batch_size": 360,
        "augmentation": {"crop_padding": 1},
    }
    config.stages = {
        "teacher": train(supervised, 30, student={"name": "resnet14"}),
        "assistant": train(distill, 30, teacher=from_stage("teacher"), student=assistant),
        "student": train(distill, 60, teacher=from_stage("assistant"), student=student),
        "student_direct": train(distill, 60, teacher=from_stage("teacher"), student=student),
        "student_alone": train(supervised, 60, student=student),
    }
    config.pipeline = ("teacher", "assistant", "student", "student_direct", "student_alone")
    return config
