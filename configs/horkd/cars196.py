r"""HORKD for retrieval (Ge et al., AAAI 2020, section 4.3): Cars196 at low resolution.

    kd-jax train --config=horkd/cars196:resolution=128,path=cars196 --workdir=runs/cars196_128

The first 98 classes are trained on, the other 98 are searched. `path` has `cars_annos.mat` and its
images, or one folder per class. Networks, recipe, arguments and the published numbers are those of
`horkd/cub200`.
"""

from ml_collections import ConfigDict

from kd_jax.experiment import sibling


def get_config(argument: str | None = None) -> ConfigDict:
    """Returns the experiment."""
    source = {"name": "cars196", "path": "cars196"}
    return sibling(__file__, "cub200.py").retrieval(
        argument, source, mkd_weight=0.1, teacher_epochs=64.0, epochs=127.0
    )
