"""The benchmarks of faces run and print what they promise; their numbers are not tested."""

import sys

import pytest
import small_faces


def cells(printed):
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in printed.splitlines()
        if line.startswith("|")
    ][2:]


def test_latency_of_teacher_and_student(script, capsys):
    options = ["--teacher=sphereface20", "--student=sphereface4", "--width=0.0625"]
    options += ["--batches", "1", "2", "--size", "32", "32", "--repeats=2"]
    assert script("benchmarks/inference.py").main(options) == 0
    rows = cells(capsys.readouterr().out)
    assert [row[::2][:2] for row in rows] == [
        [name, batch] for batch in "12" for name in ("sphereface20", "sphereface4")
    ]
    assert all(float(row[-1]) > 0 for row in rows)


def test_reader_and_step(script, tmp_path, capsys, one_device):
    small_faces.write(tmp_path / "faces", scale=8)
    options = [f"--path={tmp_path / 'faces'}", "--size", "56", "48", "--batch=8", "--steps=2"]
    options += ["--teacher=sphereface4", "--student=sphereface4", "--width=0.0625"]
    assert (
        script("benchmarks/streaming.py").main(
            [*options, "--dtype=float32", "--rounds=1", "--ahead=1", "--reads=2"]
        )
        == 0
    )
    rows = cells(capsys.readouterr().out)
    assert [row[0] for row in rows] == ["reader alone", "step alone", "both"]
    assert all(float(row[2]) > 0 for row in rows)


def test_degradation_beside_the_libraries(script, monkeypatch, capsys):
    pytest.importorskip("cv2")
    monkeypatch.setattr(sys, "argv", ["degradation.py", "--batch=2", "--repeats=1"])
    script("benchmarks/degradation.py").main()
    rows = cells(capsys.readouterr().out)
    assert [row[0] for row in rows] == ["kd_jax", "Pillow, bicubic", "OpenCV, area and cubic"]
