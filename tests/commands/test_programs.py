"""Compiled programs that are kept for later runs."""

import os
import zlib

from kd_jax.commands import _programs


def test_damaged_programs_are_removed(tmp_path):
    whole = zlib.compress(bytes(range(256)) * 40)
    files = {"good": whole, "cut": whole[: len(whole) // 2], "empty": b"", "other": b"\x28\xb5"}
    for name, content in files.items():
        (tmp_path / f"{name}-cache").write_bytes(content)
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1
    (tmp_path / "changed-cache").write_bytes(changed)
    _programs.clean(tmp_path)
    left = sorted(path.name for path in tmp_path.glob("*-cache"))
    assert left == ["good-cache", "other-cache"]  # another format than zlib is JAX's to check
    _programs.clean(tmp_path)
    assert len(list(tmp_path.glob("*-cache"))) == 2


def test_the_oldest_programs_make_room(tmp_path, monkeypatch):
    monkeypatch.setattr(_programs, "_MOST_BYTES", 60)
    for age in range(4):
        path = tmp_path / f"{age}-cache"
        path.write_bytes(zlib.compress(b"0123456789"))
        os.utime(path, (1000 - age, 1000 - age))
    _programs.clean(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*-cache")) == [
        "0-cache",
        "1-cache",
        "2-cache",
    ]
