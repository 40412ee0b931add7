"""TensorBoard: event files that `tensorboard --logdir=WORKDIR` shows. No TensorFlow is needed."""

import dataclasses
import os
from collections.abc import Mapping

import numpy as np

from kd_jax.core.errors import UsageError, reason
from kd_jax.training.hooks.base import HOOKS, Hook, HookContext, Sink


@HOOKS.register("tensorboard")
@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorBoard(Hook):
    """Event files in the folder `STAGE/tensorboard`, written by the package tensorboardX.

    Attributes:
        images: number of images of the first training batch to show, as each network sees them.
    """

    images: int = 16

    def __post_init__(self):
        super().__post_init__()
        if self.images < 0:
            raise ValueError(f"images must be 0 or more, not {self.images}")

    def check(self) -> None:
        """See `Hook`."""
        try:
            import tensorboardX  # noqa: F401
        except ImportError as error:
            raise UsageError(
                f"tensorboardX cannot be imported ({reason(error)}), which the hook tensorboard"
                " needs: run `pip install 'kd_jax[tensorboard]'`, or leave the hook out."
            ) from error

    def open(self, context: HookContext) -> Sink:
        """See `Hook`.

        Raises:
            UsageError: if the folder is in a bucket.
        """
        folder = os.fspath(context.folder / "tensorboard")
        if "://" in folder:
            raise UsageError(
                f"{folder} is in a bucket, where the hook tensorboard cannot write: choose a"
                " --workdir on a disk, or leave the hook out."
            )
        return _EventFiles(folder, context.step, self.images)


class _EventFiles(Sink):
    """The event files of a stage."""

    def __init__(self, folder: str, step: int, images: int):
        """Opens a new file; TensorBoard ignores entries of older files after `step`."""
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(folder, purge_step=step + 1 if step else None)
        self._images, self._step = images, step

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `Sink`."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def images(self, images: Mapping[str, np.ndarray]) -> None:
        """See `Sink`."""
        for role, pixels in images.items():
            shown = pixels[: self._images]
            if self._step == 0 and len(shown) and shown.shape[-1] in (1, 3):
                self._writer.add_images(f"sees/{role}", shown, 0, dataformats="NHWC")

    def close(self) -> None:
        """See `Sink`."""
        self._writer.close()
