"""The options of the images of an experiment."""

import dataclasses
from typing import Annotated

from kd_jax.data import SOURCES, BatchOrder, ClassOrder, ImageSet, Source, StoredImages
from kd_jax.data.preprocessing import Augmentation, Normalization, check_filter
from kd_jax.experiment.network_spec import check_normalization


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """The images of an experiment: `config.data`.

    Attributes:
        source: origin of the images.
        batch_size: number of images per training step, over all devices.
        eval_batch_size: number of images per evaluation step, over all devices.
        train_split: images to train on, in the notation of TFDS.
        test_split: images to evaluate, in the notation of TFDS. None has no test images; the
            evaluators of the stages then give the results, or the validation images. They also
            give the results if no test class is a training class, as in retrieval.
        images_per_class: number K of images per class of a batch, which then has batch_size / K
            random classes; see `kd_jax.data.ClassOrder`. The number of steps per epoch stays the
            same. 0 draws the images whatever their classes.
        augmentation: random changes of the training images.
        filter: resampling filter that makes lower resolutions.
        train_fraction: fraction of the other training images of each class that is used, in all
            stages.
        subset_seed: seed of the choice of that fraction. Smaller fractions are in larger ones.
        validation_fraction: fraction of the training images of each class that is not trained on.
            It becomes the split `validation`, and the best checkpoint is then chosen on it.
        stream: decode the training images batch by batch while the devices compute. If false, all
            of them are on every device if they take at most a quarter of its memory, else the
            devices share them. The numbers are the same.
        normalization: mean and standard deviation of each channel on the scale 0 to 1, for networks
            that start from random weights. None takes those of the training images.
    """

    source: Annotated[Source, SOURCES]
    batch_size: int
    eval_batch_size: int = 512
    train_split: str = "train"
    test_split: str | None = "test"
    images_per_class: int = 0
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    filter: str = "bicubic"
    train_fraction: float = 1.0
    subset_seed: int = 0
    validation_fraction: float = 0.0
    stream: bool = False
    normalization: Normalization | None = None

    def __post_init__(self):
        check_filter(self.filter)
        for name in ("batch_size", "eval_batch_size"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} must be 1 or more, not {value}")
        if self.images_per_class < 0:
            raise ValueError(f"images_per_class must be 0 or more, not {self.images_per_class}")
        if self.normalization is not None:
            check_normalization(self.normalization)
        if not 0 < self.train_fraction <= 1:
            raise ValueError("train_fraction must be greater than 0 and at most 1")
        if not 0 <= self.validation_fraction < 1:
            raise ValueError("validation_fraction must be at least 0 and less than 1")
        if not 0 <= self.subset_seed < 2**64:
            raise ValueError("subset_seed must be at least 0 and less than 2**64")

    def order(self, seed: int, train: ImageSet | StoredImages) -> BatchOrder:
        """Returns the order of the training images.

        Args:
            seed: seed of the order.
            train: the training images.

        Raises:
            UsageError: if the batches do not fit the images.
        """
        if not self.images_per_class:
            return BatchOrder(seed, len(train), self.batch_size)
        return ClassOrder(
            seed, len(train), self.batch_size, self.images_per_class, labels=train.labels
        )
