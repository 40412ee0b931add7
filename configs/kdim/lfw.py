r"""KDim on LFW's development set: no person of the test is seen in training.

    python -m kd_jax.train --config=configs/kdim/lfw.py --config.data.source.path=lfw \
        --config.data.source.include=lfw/peopleDevTrain.txt --workdir=runs/kdim_lfw

`lfw` holds the aligned faces as `Name/Name_0001.jpg`, 112x112, of which the middle 112x96 is used;
all fit on a device. Only persons with five images or more are trained on. That is 4,138 images of
298 persons where the paper has 490,623 of 10,572: accuracies cannot be compared with its tables,
the methods with one another can. The arguments are those of `configs/kdim/casia.py`.

    python -m kd_jax.evaluate --network=runs/kdim_lfw/kdim --size=112x96 \
        --pairs=lfw/pairsDevTest.txt --images=lfw
"""

from ml_collections import ConfigDict

from kd_jax.configs import face_source, sibling


def get_config(argument: str | None = None) -> ConfigDict:
    """The experiment."""
    source = face_source("lfw", size=(112, 96), min_images=5)
    rates = {"learning_rate": 0.02, "teacher_learning_rate": 0.02}
    return sibling(__file__, "casia.py").kdim(
        argument, source, "kdim_lfw", stream=False, batch=64, **rates
    )
