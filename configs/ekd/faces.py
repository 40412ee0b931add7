r"""EKD on faces (Zhang et al., IEEE TCSVT 2021, Table VI): 0.61 million parameters at 16x16.

    kd-jax train --config=ekd/faces --config.data.source.path=umdfaces_112x112 \
        --workdir=runs/ekd_faces

The student is a ResNet-18 of 0.61 million parameters. A ResNet-50 learns together with it, and
both see the faces at 16x16; there is one folder per identity. The paper trains on UMDFaces (367,888
faces of 8,277 persons) and tests on UCCS: 93.85 % top-1 on 907 images of 180 other persons, see the
config `uccs`. UMDFaces is not available any more, UCCS under a license. The paper's teacher has the
structure of VGGFace2's ResNet-50, whose first layers reduce 16x16 to 4x4; the one here keeps 16x16
(`teacher=resnet50_vggface2` is the other). All rows of Table VI are printed by
`experiments/face_tables.py`. The recipe and the arguments are those of `ekd/cifar100`.
"""

from ml_collections import ConfigDict

from kd_jax.experiment import face_source, sibling


def get_config(argument: str | None = None) -> ConfigDict:
    """Returns the experiment."""
    source = face_source("umdfaces_112x112", size=(112, 112))
    return sibling(__file__, "cifar100.py").ekd(
        argument,
        source,
        size=112,
        crop=False,  # the faces are aligned
        stream=True,
        student="resnet18_slim",
        resolution=16,
    )
