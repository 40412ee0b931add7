"""Knowledge distillation for cross-resolution image recognition, in JAX/Flax.

Everything here is imported when it is first used, so that `import kd_jax` costs nothing. The page
docs/api.md says which names are stable.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kd_jax import data as data
    from kd_jax import evaluation as evaluation
    from kd_jax import losses as losses
    from kd_jax import methods as methods
    from kd_jax import models as models
    from kd_jax import training as training
    from kd_jax.core.errors import UsageError as UsageError
    from kd_jax.data import register as register_source
    from kd_jax.evaluation import register as register_evaluator
    from kd_jax.experiment.run import run as run
    from kd_jax.methods import register as register_method
    from kd_jax.methods import register_label_loss as register_label_loss
    from kd_jax.models import register as register_network
    from kd_jax.pretrained import Embedder as Embedder
    from kd_jax.pretrained import load as load
    from kd_jax.training import Stage as Stage
    from kd_jax.training import TrainState as TrainState
    from kd_jax.training import dataset_statistics as dataset_statistics
    from kd_jax.training import init_state as init_state
    from kd_jax.training import train_step as train_step
    from kd_jax.training.hooks import register_hook as register_hook
    from kd_jax.training.optimizers import register_optimizer as register_optimizer
    from kd_jax.training.optimizers import register_schedule as register_schedule

__version__ = "0.2.0"

_PACKAGES = ("data", "evaluation", "losses", "methods", "models", "training")

_NAMES = {
    "Embedder": ("kd_jax.pretrained", "Embedder"),
    "Stage": ("kd_jax.training", "Stage"),
    "TrainState": ("kd_jax.training", "TrainState"),
    "UsageError": ("kd_jax.core.errors", "UsageError"),
    "dataset_statistics": ("kd_jax.training", "dataset_statistics"),
    "init_state": ("kd_jax.training", "init_state"),
    "load": ("kd_jax.pretrained", "load"),
    "register_evaluator": ("kd_jax.evaluation", "register"),
    "register_hook": ("kd_jax.training.hooks", "register_hook"),
    "register_label_loss": ("kd_jax.methods", "register_label_loss"),
    "register_method": ("kd_jax.methods", "register"),
    "register_network": ("kd_jax.models", "register"),
    "register_optimizer": ("kd_jax.training.optimizers", "register_optimizer"),
    "register_schedule": ("kd_jax.training.optimizers", "register_schedule"),
    "register_source": ("kd_jax.data", "register"),
    "run": ("kd_jax.experiment.run", "run"),
    "train_step": ("kd_jax.training", "train_step"),
}
"""Module and name of every public name."""

__all__ = sorted((*_PACKAGES, *_NAMES))


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used."""
    if name in _PACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _NAMES:
        module, attribute = _NAMES[name]
        try:
            value = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("kd_jax"):
                raise
            raise ImportError(
                f"kd_jax.{name} needs {error.name}: run `pip install 'kd_jax[train]'`."
            ) from error
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
