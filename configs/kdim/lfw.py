r"""KDim (Wang et al., ICCVW 2019) on LFW's development set: training sees no person of the test.

    kd-jax train --config=kdim/lfw --config.data.source.path=lfw \
        --config.data.source.include=lfw/peopleDevTrain.txt --workdir=runs/kdim_lfw
    kd-jax evaluate --network=runs/kdim_lfw/kdim --size=112x96 \
        --pairs=lfw/pairsDevTest.txt --images=lfw

The folder `lfw` holds the aligned faces as `Name/Name_0001.jpg`, 112x112. The centers of 112x96 are
used; all of them fit on a device. Only persons with five images or more are trained on: 4,138
images of 298 persons, where the paper has 490,623 of 10,572. The accuracies cannot be compared with
its tables, but the methods can be compared with each other. The measured accuracies are in
`experiments/results/faces_cpu.md`. The arguments are those of `kdim/casia`.
"""

from ml_collections import ConfigDict

from kd_jax.experiment import face_source, sibling


def get_config(argument: str | None = None) -> ConfigDict:
    """Returns the experiment."""
    source = face_source("lfw", size=(112, 96), min_images=5)
    rates = {"learning_rate": 0.02, "teacher_learning_rate": 0.02}
    return sibling(__file__, "casia.py").kdim(
        argument, source, "kdim_lfw", stream=False, batch=64, **rates
    )
