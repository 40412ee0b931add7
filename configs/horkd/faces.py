r"""HORKD on faces (Ge et al., AAAI 2020, section 4.2): a small network recognizes them at 16x16.

    kd-jax train --config=horkd/faces:resolution=16 \
        --config.data.source.path=umdfaces_112x112 --workdir=runs/horkd_faces
    kd-jax evaluate --network=runs/horkd_faces/student --pairs=lfw/pairs.txt \
        --images=lfw --probe_sizes=full --protocol=plain --threshold_pairs=lfw/pairsDevTrain.txt

The teacher has the layout of VGGFace2's ResNet-50, the student is a ResNet-34 of 7.8 million
parameters. The teacher and the assistant see the aligned faces in full, the student sees them at 32
or 16 pixels. The paper starts from the released VGGFace2 weights and trains on UMDFaces. Neither is
available any more: here the teacher is trained on the same faces, one folder per identity. On LFW
the paper reports 93.83 % at 32x32 and 90.03 % at 16x16, where both images of a pair are small, as
they are for this student. It decides "with a pre-set threshold": here it is the best threshold of
other pairs; without `--threshold_pairs` it is chosen by ten-fold cross-validation. The config
`uccs` identifies the persons of UCCS with this student. `experiments/face_tables.py` prints all
rows of the paper's Tables 2 and 3.

The recipe and the arguments are those of `horkd/cifar100`, for 20 epochs. The faces are read from
the disk batch by batch.
"""

from ml_collections import ConfigDict

from kd_jax.experiment import face_source, sibling


def get_config(argument: str | None = None) -> ConfigDict:
    """Returns the experiment."""
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
