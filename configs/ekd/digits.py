"""EKD on real handwritten digits, in two minutes on a CPU.

    python -m kd_jax.train --config=configs/ekd/digits.py:baselines=true --workdir=runs/ekd_digits

Scikit-learn's 1,797 digits (nothing is downloaded), which both networks see at 4x4 pixels, much as
in Fig. 6. With `baselines`, beside EKD the same student alone and by KD from the same teacher
trained beforehand, all for the same number of steps. The recipe and the arguments are those of
`configs/ekd/cifar100.py`; what was measured stands in `experiments/results/ekd.md`.
"""

from ml_collections import ConfigDict

from kd_jax.configs import sibling


def get_config(argument: str | None = None) -> ConfigDict:
    """The experiment."""
    defaults = {
        "teacher": "resnet14",
        "student": "resnet8",
        "resolution": 4,
        "epochs": 60,
        "dtype": "float32",
    }
    source = {"name": "digits"}
    config = sibling(__file__, "cifar100.py").ekd(argument, source, size=8, flip=False, **defaults)
    config.data.eval_batch_size = min(config.data.eval_batch_size, 360)
    return config
