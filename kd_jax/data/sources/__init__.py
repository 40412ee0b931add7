"""Sources of labeled images, one per module; see `kd_jax.data.base.SOURCES`."""
