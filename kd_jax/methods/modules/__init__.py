"""Modules that methods train in addition to the networks.

They are in use during training only: a trained network does not need them.
"""

from kd_jax.methods.modules.embeddings import UnitMap as UnitMap
from kd_jax.methods.modules.factors import Paraphraser as Paraphraser
from kd_jax.methods.modules.factors import Translator as Translator
from kd_jax.methods.modules.guided import GuidedModule as GuidedModule
from kd_jax.methods.modules.guided import guided_modules as guided_modules
from kd_jax.methods.modules.layer_attention import LayerAttention as LayerAttention
from kd_jax.methods.modules.peers import Gate as Gate
from kd_jax.methods.modules.peers import PeerAttention as PeerAttention
from kd_jax.methods.modules.regressors import GaussianRegressor as GaussianRegressor
from kd_jax.methods.modules.regressors import HintRegressor as HintRegressor
from kd_jax.methods.modules.review import Review as Review
