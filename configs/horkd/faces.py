r"""HORKD on faces (Ge et al., AAAI 2020, section 4.2): a small network recognises them at 16x16.

    python -m kd_jax.train --config=configs/horkd/faces.py:resolution=16 \
        --config.data.source.path=umdfaces_112x112 --workdir=runs/horkd_faces
    python -m kd_jax.evaluate --network=runs/horkd_faces/student --pairs=lfw/pairs.txt \
        --images=lfw --probe_sizes=full

The teacher has VGGFace2's ResNet-50 layout, the student is a ResNet-34 of 7.8 million parameters;
both see the faces as they are aligned, the student after them at 32 or 16 pixels. The paper starts
from the released VGGFace2 weights and trains on UMDFaces, neither of which is to be had any more:
here the teacher is trained on the same faces, a folder an identity. On LFW it reports 93.83 % at
32x32 and 90.03 % at 16x16, where both images of a pair are small, as they are for this student.

The recipe and the arguments are those of `configs/horkd/cifar100.py`, for 20 epochs; `stream` reads
the faces from the disk as they are needed.
"""

from ml_collections import ConfigDict

from kd_jax.configs import face_source, sibling


def get_config(argument: str | None = None) -> ConfigDict:
    """The experiment."""
    source = face_source("umdfaces_112x112", size=(112, 112))
    return sibling(__file__, "cifar100.py").horkd(
        argument,
        source,
        size=112,
        crop=False,  # the faces are aligned
        stream=True,
        teacher="resnet50_vggface2",
        student="resnet34_slim",
        epochs=20,
    )
