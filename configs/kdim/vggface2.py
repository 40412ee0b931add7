r"""KDim (Wang et al., ICCVW 2019) on VGGFace2, or on any folder of aligned faces.

    kd-jax train --config=kdim/vggface2 --config.data.source.path=vggface2_112x112 \
        --config.data.source.exclude_ids=in_lfw.txt --workdir=runs/kdim_vggface2

There is one folder per identity: the aligned faces are `PATH/n004332/0317_01.jpg`, 112x112 (`kd-jax
align` makes them from landmarks). They are read from the disk batch by batch, and the centers of
112x96 are used. 594 of the 9,131 persons are in LFW too: `exclude_ids` is a file with the folders
to leave out before a test there. The paper has no numbers for these images. The arguments are those
of `kdim/casia`.
"""

from ml_collections import ConfigDict

from kd_jax.experiment import face_source, sibling


def get_config(argument: str | None = None) -> ConfigDict:
    """Returns the experiment."""
    source = face_source("vggface2_112x112", size=(112, 96))
    return sibling(__file__, "casia.py").kdim(argument, source, "kdim_vggface2")
