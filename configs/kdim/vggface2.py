r"""KDim on VGGFace2 (or any folder of aligned faces, a folder an identity).

    python -m kd_jax.train --config=configs/kdim/vggface2.py \
        --config.data.source.path=vggface2_112x112 \
        --config.data.source.exclude_ids=in_lfw.txt --workdir=runs/kdim_vggface2

The faces lie aligned as `PATH/n004332/0317_01.jpg`, 112x112 (`python -m kd_jax.align` makes them so
from landmarks), and stream from the disk; the middle 112x96 is used. 594 of the 9,131 persons are
in LFW too: `exclude_ids` names the folders to leave out before a test there. The paper has no
numbers for these images. The arguments are those of `configs/kdim/casia.py`.
"""

from ml_collections import ConfigDict

from kd_jax.configs import face_source, sibling


def get_config(argument: str | None = None) -> ConfigDict:
    """The experiment."""
    source = face_source("vggface2_112x112", size=(112, 96))
    return sibling(__file__, "casia.py").kdim(argument, source, "kdim_vggface2")
