"""Faces: pairs for verification, galleries for identification, and protocols."""

from kd_jax.evaluation.faces.galleries import FaceGallery as FaceGallery
from kd_jax.evaluation.faces.galleries import random_gallery as random_gallery
from kd_jax.evaluation.faces.galleries import read_gallery as read_gallery
from kd_jax.evaluation.faces.galleries import read_scface as read_scface
from kd_jax.evaluation.faces.low_resolution import MODES as MODES
from kd_jax.evaluation.faces.low_resolution import lr_verification as lr_verification
from kd_jax.evaluation.faces.pairs import FacePairs as FacePairs
from kd_jax.evaluation.faces.pairs import read_bin as read_bin
from kd_jax.evaluation.faces.pairs import read_pairs as read_pairs
from kd_jax.evaluation.faces.protocols import PROTOCOLS as PROTOCOLS
from kd_jax.evaluation.faces.protocols import Protocol as Protocol
from kd_jax.evaluation.faces.protocols import with_threshold as with_threshold
