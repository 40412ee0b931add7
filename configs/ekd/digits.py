"""EKD on real handwritten digits, in two minutes on a CPU.

    kd-jax train --config=ekd/digits:baselines=true --workdir=runs/ekd_digits

The images are scikit-learn's 1,797 digits (nothing is downloaded). Both networks see them at 4x4
pixels, a resolution as low as in Fig. 6 of the paper (Zhang et al., IEEE TCSVT 2021), which has no
numbers for these images. With `baselines=true`, the same student is also trained alone, and by KD
from the same teacher, which is then trained before; all stages have the same number of steps. The
recipe and the arguments are those of `ekd/cifar100`. The measured accuracies are in
`experiments/results/ekd.md`: 91.4 % by EKD, 92.8 % by KD, 93.5 % alone.
"""

from ml_collections import ConfigDict

from kd_jax.experiment import sibling


def get_config(argument: str | None = None) -> ConfigDict:
    """Returns the experiment."""
    defaults = {
        "teacher": "resnet14",
        "student": "resnet8",
        "resolution": 4,
        "epochs": 60,
        "dtype": "float32",
    }
    source = {"name": "digits"}
    config = sibling(__file__, "cifar100.py").ekd(argument, source, size=8, flip=False, **defaults)
    config.data.eval_batch_size = min(config.data.eval_batch_size, 360)  # all test images
    return config
