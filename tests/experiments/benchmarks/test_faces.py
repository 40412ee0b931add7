"""The benchmarks of faces run and print positive numbers; the numbers are not tested."""

import pytest
import small_faces

from experiments.benchmarks import degradation_speed, face_latency, face_reading


def test_latency_of_teacher_and_student(capsys):
    options = ["--teacher=sphereface20", "--student=sphereface4", "--width=0.0625"]
    options += ["--batches", "1", "2", "--size", "32", "32", "--repeats=2"]
    assert face_latency.main(options) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[4:8]]
    assert [(words[1], words[5]) for words in lines] == [
        (name, batch) for batch in "12" for name in ("sphereface20", "sphereface4")
    ]
    assert all(float(words[-2]) > 0 for words in lines)


@pytest.mark.usefixtures("one_device")
def test_reader_and_step(tmp_path, capsys, rows):
    small_faces.write(tmp_path / "faces", scale=8)
    options = [f"--path={tmp_path / 'faces'}", "--size", "56", "48", "--batch=8", "--steps=2"]
    options += [
        "--teacher=sphereface4",
        "--student=sphereface4",
        "--width=0.0625",
        "--dtype=float32",
    ]
    assert face_reading.main([*options, "--rounds=1", "--ahead=1", "--reads=2"]) == 0
    table = rows(capsys.readouterr().out)
    for name in ("reader alone", "step alone", "both"):
        assert float(table[name][1]) > 0


def test_degradation_by_all_libraries(capsys, rows):
    pytest.importorskip("cv2")
    assert degradation_speed.main(["--batch=2", "--repeats=1"]) == 0
    table = rows(capsys.readouterr().out)
    for name in ("kd_jax", "Pillow, bicubic", "OpenCV, area and cubic"):
        assert float(table[name][0]) > 0
