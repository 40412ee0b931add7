"""Errors, registries, files and devices, which all other packages use."""
