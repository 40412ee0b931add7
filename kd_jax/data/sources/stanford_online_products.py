"""Stanford Online Products, as its archive unpacks."""

import dataclasses

from kd_jax.core.errors import UsageError
from kd_jax.data.base import SOURCES
from kd_jax.data.class_split import (
    ClassFiles,
    ClassSplitSource,
    by_number,
    check_path,
    class_number,
    read_rows,
)

_HEADER = ["image_id", "class_id", "super_class_id", "path"]
_REMEDY = "set data.source.path to the folder Stanford_Online_Products of the unpacked archive"


@SOURCES.register("stanford_online_products")
@dataclasses.dataclass(frozen=True)
class StanfordOnlineProducts(ClassSplitSource):
    """Stanford Online Products: 120,053 photographs of 22,634 products, of many sizes.

    Oh Song et al., Deep Metric Learning via Lifted Structured Feature Embedding, CVPR 2016. The
    source reads the official lists `Ebay_train.txt`, with 59,551 images of 11,318 products, and
    `Ebay_test.txt`, with 60,502 images of 11,316 other products. The images need `fit`.

    Attributes:
        path: the folder `Stanford_Online_Products`, which holds `Ebay_train.txt`.
    """

    def _classes(self) -> ClassFiles:
        train, test = self._listed("Ebay_train.txt"), self._listed("Ebay_test.txt")
        if both := set(train[1]) & set(test[1]):
            raise UsageError(
                f"{self._root}: Ebay_train.txt and Ebay_test.txt both have the class {min(both)}:"
                " unpack the archive again."
            )
        return ClassFiles(by_number(*train), by_number(*test))

    def _listed(self, name: str) -> tuple[list[str], list[int]]:
        """Returns path and number of the class of each image in a list."""
        path = self._root / name
        header, *rows = read_rows(path, len(_HEADER), _REMEDY)
        if header != _HEADER or not rows:
            raise UsageError(f"{path} does not begin with {' '.join(_HEADER)!r}: {_REMEDY}.")
        files = [check_path(row[3], path, _REMEDY) for row in rows]
        return files, [class_number(row[1], path, _REMEDY) for row in rows]
