r"""EKD on faces (Ge et al., IEEE TCSVT 2021, Table VI): 0.61 million parameters at 16x16.

    python -m kd_jax.train --config=configs/ekd/faces.py \
        --config.data.source.path=faces_112x112 --workdir=runs/ekd_faces

The student is a ResNet-18 of 0.61 million parameters; a ResNet-50 learns beside it, and both see
the faces, a folder an identity, at 16x16. The paper trains and tests on UCCS (93.85 % top-1), whose
images are given out under a licence. Recipe and arguments are those of `configs/ekd/cifar100.py`.
"""

from ml_collections import ConfigDict

from kd_jax.configs import face_source, sibling


def get_config(argument: str | None = None) -> ConfigDict:
    """The experiment."""
    source = face_source("faces_112x112", size=(112, 112))
    return sibling(__file__, "cifar100.py").ekd(
        argument,
        source,
        size=112,
        crop=False,  # the faces are aligned
        stream=True,
        student="resnet18_slim",
        resolution=16,
    )
