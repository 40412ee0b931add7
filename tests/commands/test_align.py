"""The command that aligns faces by their landmarks."""

import os

import numpy as np
import pytest
from PIL import Image

from kd_jax.commands.align import align_folder, main
from kd_jax.core.errors import UsageError
from kd_jax.data.alignment import align, template

SIZE = (112, 96)


@pytest.fixture
def faces(tmp_path):
    """A folder with three images of different sizes, and their landmarks."""
    rng = np.random.default_rng(0)
    lines = ["path,x1,y1,x2,y2,x3,y3,x4,y4,x5,y5"]
    for name, size in (("A/A_0001.png", 150), ("A/A_0002.JPG", 160), ("B/deep/b.bmp", 170)):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (size, size + 9, 3), dtype=np.uint8)).save(path)
        points = 1.2 * template(SIZE) + rng.normal(0, 2, (5, 2))
        lines.append(",".join([name, *(f"{x:.3f}" for x in points.ravel())]))
    (tmp_path / "images" / "notes.txt").write_text("no image")
    (tmp_path / "landmarks.csv").write_text("\n".join(lines))
    return tmp_path


def run(faces, size=SIZE):
    images, landmarks, out = (str(faces / name) for name in ("images", "landmarks.csv", "out"))
    return align_folder(images, landmarks, out, size)


def written(faces):
    out = faces / "out"
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


NAMES = ["A/A_0001.png", "A/A_0002.png", "B/deep/b.png"]


@pytest.mark.parametrize("size", ["112x96", "112x112"])
def test_a_folder_is_aligned(faces, capsys, size):
    flags = [f"--images={faces}/images", f"--landmarks={faces}/landmarks.csv", f"--out={faces}/out"]
    assert main([*flags, f"--size={size}"]) == 0
    assert (
        capsys.readouterr().out
        == f"3 faces of {size} written to {faces}/out, 0 were there already\n"
    )
    assert written(faces) == NAMES
    for line in (faces / "landmarks.csv").read_text().splitlines()[1:]:
        name, *numbers = line.split(",")
        with Image.open(faces / "images" / name) as image:
            points = np.array(numbers, float).reshape(5, 2)
            expected = align(np.asarray(image), points, tuple(map(int, size.split("x"))))
        with Image.open((faces / "out" / name).with_suffix(".png")) as face:
            np.testing.assert_array_equal(np.asarray(face), expected)


def test_complete_faces_are_kept_and_others_made_again(faces):
    assert run(faces) == (3, 0)
    before = {name: (faces / "out" / name).read_bytes() for name in NAMES}
    assert run(faces) == (0, 3)
    (faces / "out" / NAMES[0]).unlink()
    (faces / "out" / NAMES[1]).write_bytes(before[NAMES[1]][:500])
    assert run(faces) == (2, 1)
    assert {name: (faces / "out" / name).read_bytes() for name in NAMES} == before
    assert run(faces, (112, 112)) == (3, 0)
    later = os.stat(faces / "out" / NAMES[2]).st_mtime + 10
    os.utime(faces / "landmarks.csv", (later, later))  # as if they had been corrected
    assert run(faces, (112, 112)) == (3, 0)


def test_an_image_without_landmarks_is_named_before_anything_is_written(faces):
    lines = (faces / "landmarks.csv").read_text().splitlines()
    (faces / "landmarks.csv").write_text("\n".join([*lines[:2], *lines[3:]]))
    says = r"A_0002\.JPG has no landmarks in .*landmarks\.csv \(1 in all\): add them"
    with pytest.raises(UsageError, match=says):
        run(faces)
    (faces / "landmarks.csv").write_text("\n".join([*lines, lines[1].replace("0001", "0007")]))
    with pytest.raises(UsageError, match=r"A_0007\.png is named in .*csv, but is no image there"):
        run(faces)
    assert not (faces / "out").exists()


def test_a_damaged_image_is_named_and_leaves_no_face(faces):
    path = faces / "images" / "A" / "A_0002.JPG"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UsageError, match=r"A/A_0002\.JPG is damaged or no image"):
        run(faces)
    assert "A/A_0002.png" not in written(faces)
    path.unlink()
    path.symlink_to(faces / "nowhere.jpg")
    with pytest.raises(UsageError, match=r"A/A_0002\.JPG cannot be read \(No such file"):
        run(faces)


def test_what_is_no_file_is_named(faces):
    """Reading a FIFO would never end, and a folder cannot be replaced by a face."""
    path = faces / "images" / "A" / "A_0002.JPG"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UsageError, match=r"A/A_0002\.JPG cannot be read \(it is no regular file"):
        run(faces)
    face = faces / "out" / "A" / "A_0001.png"
    face.unlink(missing_ok=True)
    (face / "folder").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"A_0001\.png cannot be written \(Cannot overwrite"):
        run(faces)


def test_a_face_outside_of_its_image_is_named(faces):
    text = (faces / "landmarks.csv").read_text()
    name = "A/A_0001.png"
    lines = [
        f"{name},{','.join(str(1000 + i * i) for i in range(10))}"
        if line.startswith(name)
        else line
        for line in text.splitlines()
    ]
    (faces / "landmarks.csv").write_text("\n".join(lines))
    with pytest.raises(UsageError, match=r"A_0001\.png: all landmarks are outside of the image"):
        run(faces)


def test_two_images_cannot_become_one_face(faces):
    (faces / "images/A/A_0001.png").rename(faces / "images/A/A_0002.png")
    text = (faces / "landmarks.csv").read_text()
    (faces / "landmarks.csv").write_text(text.replace("A_0001", "A_0002"))
    with pytest.raises(UsageError, match=r"2 images would become .*A/A_0002\.png: rename them"):
        run(faces)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"images": None}, "--images is missing: type for example `kd-jax align --images=lfw"),
        ({"landmarks": None}, "--landmarks is missing"),
        ({"out": None}, "--out is missing"),
        ({"size": "112"}, "--size=112 must be HEIGHTxWIDTH, such as 112x96"),
        ({"size": "96x112"}, "faces are aligned to 112x96 or 112x112, not to 96x112"),
        ({"images": "nowhere"}, "nowhere cannot be read (No such file or directory): name"),
        ({"landmarks": "nowhere.csv"}, "nowhere.csv cannot be read"),
        ({"out": "images/out"}, "--out=images/out is in --images=images: choose a folder"),
    ],
)
def test_what_the_user_can_fix_is_one_sentence(faces, monkeypatch, one_sentence, changes, says):
    monkeypatch.chdir(faces)
    values = {"images": "images", "landmarks": "landmarks.csv", "out": "out"} | changes
    flags = [f"--{name}={value}" for name, value in values.items() if value is not None]
    assert says in one_sentence(main, *flags)
    assert not (faces / "out").exists()


def test_without_arguments_those_of_the_process_are_used(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["align", "--help"])
    assert main() == 0
    assert "--landmarks" in capsys.readouterr().out
