"""Methods: the quantities that stages minimize, under the names of their papers."""

from kd_jax.methods import metric_losses as metric_losses
from kd_jax.methods.afd import AFD as AFD
from kd_jax.methods.base import METHODS as METHODS
from kd_jax.methods.base import Adapters as Adapters
from kd_jax.methods.base import Batch as Batch
from kd_jax.methods.base import Method as Method
from kd_jax.methods.base import Ramp as Ramp
from kd_jax.methods.base import StageInfo as StageInfo
from kd_jax.methods.base import check_weights as check_weights
from kd_jax.methods.base import names as names
from kd_jax.methods.base import register as register
from kd_jax.methods.base import weighted_sum as weighted_sum
from kd_jax.methods.baselines import AT as AT
from kd_jax.methods.baselines import CC as CC
from kd_jax.methods.baselines import NST as NST
from kd_jax.methods.baselines import PKT as PKT
from kd_jax.methods.baselines import RKD as RKD
from kd_jax.methods.baselines import SP as SP
from kd_jax.methods.baselines import VID as VID
from kd_jax.methods.baselines import FitNet as FitNet
from kd_jax.methods.branched import CLILR as CLILR
from kd_jax.methods.branched import ONE as ONE
from kd_jax.methods.byot import BYOT as BYOT
from kd_jax.methods.contrastive import CRD as CRD
from kd_jax.methods.contrastive import InfoNCE as InfoNCE
from kd_jax.methods.dml import DML as DML
from kd_jax.methods.ekd import EKD as EKD
from kd_jax.methods.horkd import HORKD as HORKD
from kd_jax.methods.kd import KD as KD
from kd_jax.methods.kdim import KDim as KDim
from kd_jax.methods.label_losses import LABEL_LOSSES as LABEL_LOSSES
from kd_jax.methods.label_losses import LabelLoss as LabelLoss
from kd_jax.methods.label_losses import default_options as default_options
from kd_jax.methods.label_losses import label_loss as label_loss
from kd_jax.methods.label_losses import register_label_loss as register_label_loss
from kd_jax.methods.logits import DIST as DIST
from kd_jax.methods.logits import DKD as DKD
from kd_jax.methods.mean_teachers import MeanKD as MeanKD
from kd_jax.methods.metric_transfer import MKD as MKD
from kd_jax.methods.metric_transfer import DarkRank as DarkRank
from kd_jax.methods.okddip import OKDDip as OKDDip
from kd_jax.methods.reskd import ResKD as ResKD
from kd_jax.methods.reviewkd import ReviewKD as ReviewKD
from kd_jax.methods.snapshot import Snapshot as Snapshot
from kd_jax.methods.sums import Sum as Sum
from kd_jax.methods.supervised import Supervised as Supervised
from kd_jax.methods.transfer import Transfer as Transfer
from kd_jax.methods.two_stages import AB as AB
from kd_jax.methods.two_stages import FSP as FSP
from kd_jax.methods.two_stages import FT as FT
from kd_jax.methods.two_stages import Paraphrase as Paraphrase

METHODS.seal()
LABEL_LOSSES.seal()
