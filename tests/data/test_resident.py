import jax
import numpy as np
import pytest

from kd_jax.core.devices import data_mesh, split
from kd_jax.core.errors import UsageError
from kd_jax.data import ImageSet, ResidentLoader, resident

RANDOM = np.random.default_rng(0)
IMAGES = ImageSet(
    RANDOM.integers(0, 256, (21, 4, 5, 3), dtype=np.uint8), np.arange(21, dtype=np.int32) % 7, 7
)


@pytest.fixture
def memory(monkeypatch):
    """Sets the memory of every device, of which a set may take a quarter."""
    return lambda limit: monkeypatch.setattr(resident, "memory_limit", lambda _: limit)


@pytest.mark.parametrize("limit", [None, 4 * IMAGES.images.nbytes])
def test_every_device_has_a_copy_if_it_has_room(memory, limit):
    memory(limit)
    images = ResidentLoader(IMAGES, data_mesh(8)).images
    assert images.mesh is None
    assert {shard.data.shape for shard in images.pixels.addressable_shards} == {(21, 60)}


@pytest.mark.parametrize("index", [[0, 20, 7, 7, 3, 1, 19, 12], RANDOM.permutation(21)[:16]])
def test_devices_without_room_share_the_images_and_exchange_them(memory, index):
    memory(4 * (IMAGES.images.nbytes - 1))
    mesh = data_mesh(8)
    images = ResidentLoader(IMAGES, mesh).images
    assert {shard.data.shape for shard in images.pixels.addressable_shards} == {(3, 60)}
    rows = jax.device_put(np.asarray(index, np.int32), split(mesh))
    program = jax.jit(lambda images, rows: images[rows]).lower(images, rows).compile()
    batch = program(images, rows)
    np.testing.assert_array_equal(batch["image"], IMAGES.images[index])
    np.testing.assert_array_equal(batch["label"], IMAGES.labels[index])
    assert batch["image"].sharding.spec[0] == "data"
    assert "all-to-all" in program.as_text()
    assert f"u8[{len(index)},60]" not in program.as_text()  # no device holds the whole batch


def test_too_many_images_for_all_devices(memory):
    memory(IMAGES.images.nbytes)
    with pytest.raises(UsageError, match=r"21 images need 0\.0 GiB .* of 2 devices is"):
        ResidentLoader(IMAGES, data_mesh(2))
