"""Recipes: length, batch size and optimizer of the trainings behind the tables of the papers."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Length, batch size and optimizer of a training: SGD of momentum 0.9 with a step schedule.

    Attributes:
        epochs: number of epochs.
        milestones: numbers of completed epochs after which the learning rate drops.
        batch_size: number of images per batch.
        learning_rate: first learning rate.
        factor: factor of each drop.
        nesterov: use Nesterov's momentum.
        weight_decay: factor of the parameters that is added to the gradient.
        own_rates: first learning rates of the networks that have another one, by name.
    """

    epochs: int
    milestones: tuple[int, ...]
    batch_size: int = 64
    learning_rate: float = 0.1
    factor: float = 0.1
    nesterov: bool = False
    weight_decay: float = 5e-4
    own_rates: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def optimizers(self, network: str, epochs: float) -> dict[str, Any]:
        """Returns the optimizers of a stage.

        Args:
            network: name of the network that the stage trains; of several, the student's.
            epochs: length of the stage; the milestones scale with it.
        """
        milestones = [epoch * epochs / self.epochs for epoch in self.milestones]
        optimizer = {
            "name": "sgd",
            "learning_rate": self.own_rates.get(network, self.learning_rate),
            "momentum": 0.9,
            "weight_decay": self.weight_decay,
            "schedule": {"name": "step", "milestones": milestones, "factor": self.factor},
        }
        return {"default": optimizer | ({"nesterov": True} if self.nesterov else {})}


_SMALL = ("shufflenet_v1", "shufflenet_v2", "mobilenet_v2", "mobilenet_v2_half")

RECIPES = {
    "ekd": Recipe(200, (75, 130, 180)),
    "repdistiller": Recipe(
        240, (150, 180, 210), learning_rate=0.05, own_rates=dict.fromkeys(_SMALL, 0.01)
    ),
    "okddip": Recipe(300, (150, 225), batch_size=128, nesterov=True),
    "rkd": Recipe(200, (60, 120, 160), batch_size=128, factor=0.2),
}
"""All recipes by name.

`ekd`: Zhang et al., IEEE TCSVT 2021, section III-C. The paper gives neither the number of epochs
nor the weight decay: 200 is assumed, and 5e-4 is RepDistiller's. `repdistiller`: `train_teacher.py`
and `train_student.py` of HobbitLong/RepDistiller. `okddip`: `train.py` of DefangChen/OKDDip. `rkd`:
`run_classification.py` and `run_distill_classification.py` of lenscloth/RKD.
"""
