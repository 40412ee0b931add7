"""HORKD on real handwritten digits, from raw images to a low-resolution student, in a minute.

    python -m kd_jax.train --config=configs/quickstart.py --workdir=runs/quickstart

Scikit-learn's 1,797 digits (8x8 pixels, nothing is downloaded). A teacher and an assistant see
them at 8x8, the student at 4x4. Beside it the same student trained alone, and distilled from the
teacher without the assistant.
"""

from ml_collections import ConfigDict

from kd_jax.arguments import parse_argument


def get_config(argument: str | None = None) -> ConfigDict:
    """The experiment; the argument `smoke` makes it as short as possible."""
    arg = parse_argument(argument, epochs=30)
    if arg.smoke:
        arg.epochs = 1

    config = ConfigDict()
    config.experiment = "quickstart"
    config.seed = 0
    config.execution = "jit"
    config.data = {
        "source": {"name": "digits"},
        "batch_size": 64,
        "eval_batch_size": 360,
        "augmentation": {"crop_padding": 1},
    }
    optimizers = {
        "default": {
            "name": "sgd",
            "learning_rate": 0.1,
            "weight_decay": 5e-4,
            "schedule": {"name": "cosine"},
        }
    }
    # chosen on a fifth of the training images, never on the test images
    hybrid_order = {
        "name": "hybrid_order",
        "feature_weight": 0.0,
        "pair_weight": 5.0,
        "triplet_weight": 10.0,
        "center_weight": 0.1,
    }

    def stage(method, **networks):
        return {
            "networks": networks,
            "method": method,
            "optimizers": optimizers,
            "epochs": float(arg.epochs),
            "evaluate_every": 5.0,
        }

    def frozen(source):
        return {"init_from": source, "frozen": True}

    student = {"name": "resnet8", "resolution": 4}
    config.stages = {
        "teacher": stage({"name": "supervised"}, student={"name": "resnet14"}),
        "assistant": stage(hybrid_order, teacher=frozen("teacher"), student={"name": "resnet8"}),
        "student": stage(hybrid_order, teacher=frozen("assistant"), student=student),
        "student_direct": stage(hybrid_order, teacher=frozen("teacher"), student=student),
        "student_alone": stage({"name": "supervised"}, student=student),
    }
    config.pipeline = ("teacher", "assistant", "student", "student_direct", "student_alone")
    return config
