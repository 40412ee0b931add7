r"""KDim (Wang et al., ICCVW 2019, section 3.3.1) on DeepGlint, 6.75 million faces.

    kd-jax train --config=kdim/deepglint --config.data.source.path=faces_glint \
        --workdir=runs/kdim_deepglint

The paper gives no accuracy for this set. It estimates the time on four Titan Xp: 1.5 days for KDim,
more than a week for KD, which retrains the teacher. The images are insightface's pack of the set
(`train.rec`, `train.idx`; 180,855 persons, without those of LFW), read from the disk batch by
batch; the centers of 112x96 are used. The classifier of each network has 93 million weights. The
arguments are those of `kdim/casia`.
"""

from ml_collections import ConfigDict

from kd_jax.experiment import face_source, sibling


def get_config(argument: str | None = None) -> ConfigDict:
    """Returns the experiment."""
    source = face_source("faces_glint", name="face_records", size=(112, 96))
    return sibling(__file__, "casia.py").kdim(argument, source, "kdim_deepglint")
