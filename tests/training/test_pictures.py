"""Pictures of the first training batch."""

import dataclasses

import numpy as np
from small_stage import IMAGES, ORDER, SET, make_stage

from kd_jax.core.devices import data_mesh
from kd_jax.data import ResidentLoader
from kd_jax.data.preprocessing import Augmentation
from kd_jax.methods import KD
from kd_jax.training.pictures import STORED, first_images


def test_without_augmentation_a_network_of_full_resolution_sees_the_stored_images():
    stage = make_stage(method=KD())
    plain = dataclasses.replace(stage.views, augmentation=Augmentation())
    stages = {"plain": dataclasses.replace(stage, views=plain), "augmented": stage}
    mesh = data_mesh(2)
    found = first_images(stages, ResidentLoader(SET, mesh), ORDER, mesh, 5)
    assert next(iter(found)) == STORED
    np.testing.assert_array_equal(found[STORED], IMAGES[ORDER(0)[:5]])
    np.testing.assert_array_equal(found["plain/teacher"], found[STORED])
    assert found["plain/student"].shape == (5, 4, 4, 1)
    assert (found["augmented/teacher"] != found[STORED]).any()
    assert all(pixels.dtype == np.uint8 for pixels in found.values())
