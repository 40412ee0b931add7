r"""HORKD for retrieval (Ge et al., AAAI 2020, section 4.3): Stanford Online Products.

    kd-jax train --config=horkd/sop:resolution=128,path=Stanford_Online_Products \
        --workdir=runs/sop_128

The 59,551 images of 11,318 products are trained on, and the 60,502 images of 11,316 other products
are searched. The images are decoded batch by batch. Networks, recipe, arguments and the published
numbers are those of `horkd/cub200`, except for embeddings of 64 numbers and the length, as in RKD.
"""

from ml_collections import ConfigDict

from kd_jax.experiment import sibling


def get_config(argument: str | None = None) -> ConfigDict:
    """Returns the experiment."""
    source = {"name": "stanford_online_products", "path": "Stanford_Online_Products"}
    return sibling(__file__, "cub200.py").retrieval(
        argument,
        source,
        ks=(1, 10, 100, 1000),
        stream=True,
        drops=(1 / 3, 2 / 3),
        mkd_weight=1.0,
        embedding=64,
        teacher_epochs=86.0,
        epochs=129.0,
    )
