"""The command that finds images and draws them."""

import io
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

import kd_jax
from kd_jax.commands import _contact_sheet, search
from kd_jax.commands._contact_sheet import Picture, contact_sheet
from kd_jax.commands.search import main


@pytest.fixture
def network(trained):
    return f"--network={trained[0] / 'student'}"


def run(*arguments):
    assert main([str(argument) for argument in arguments]) == 0


def test_the_nearest_images_of_two_queries(faces, network, trained, tmp_path, capsys):
    inside, outside = faces / "Person_2" / "Person_2_0001.png", tmp_path / "large.png"
    Image.open(inside).resize((120, 140), Image.Resampling.NEAREST).save(outside)
    sheet = tmp_path / "new" / "sheet.png"
    options = (network, f"--gallery={faces}", f"--query={inside}", f"--query={outside}")
    run(*options, "--k=6", f"--out={sheet}", "--json")
    found = json.loads(capsys.readouterr().out)
    assert (found["images"], found["fit"]) == (40, [14, 12])
    names = sorted(path.relative_to(faces).as_posix() for path in faces.glob("Person_*/*.png"))
    images = np.stack([np.asarray(Image.open(faces / name)) for name in names])
    rows = kd_jax.load(trained[0] / "student")(images).embedding
    units = np.asarray(rows) / np.linalg.norm(rows, axis=1, keepdims=True)
    scores = units @ units[names.index("Person_2/Person_2_0001.png")]
    order = [i for i in np.argsort(-scores) if names[i] != "Person_2/Person_2_0001.png"][:6]
    nearest = found["queries"][0]["nearest"]
    assert [one["image"] for one in nearest] == [names[i] for i in order]
    np.testing.assert_allclose([one["score"] for one in nearest], scores[order], atol=1e-4)
    assert found["queries"][1]["nearest"][0]["image"] == "Person_2/Person_2_0001.png"
    assert Image.open(sheet).size[0] == 7 * 172 + 24
    run(*options[:3], "--k=99", f"--out={sheet}", "--query_size=4")
    table = capsys.readouterr().out
    assert table.count("| Person_") == 39  # the query itself is left out
    assert table.endswith(f"contact sheet drawn in {sheet}\n")


def test_the_cache_is_used_until_something_changes(
    faces, network, trained, tmp_path, capsys, monkeypatch
):
    gallery, cache = tmp_path / "gallery", tmp_path / "cache.npz"
    shutil.copytree(faces / "Person_0", gallery)
    query = faces / "Person_0" / "Person_0_0001.png"
    options = (network, f"--gallery={gallery}", f"--query={query}", f"--cache={cache}")
    options += (f"--out={tmp_path / 's.png'}", "--json")
    run(*options)
    first = json.loads(capsys.readouterr().out)
    with np.load(cache) as file:  # as faiss and usearch need them
        embeddings = file["embeddings"]
        assert embeddings.dtype == np.float32
        assert embeddings.flags.c_contiguous
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-6)
        assert file["names"].tolist() == sorted(path.name for path in gallery.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(search, "_embedded", None)
        run(*options)
    assert json.loads(capsys.readouterr().out) == first
    os.utime(gallery / "Person_0_0002.png", (1, 1))
    run(*options)
    assert capsys.readouterr().err == f"{cache} is written again: files changed\n"
    run(*options, "--fit=28x24")
    assert "is written again: fit changed" in capsys.readouterr().err


def test_a_cache_that_is_another_file_stays(faces, network, one_sentence, tmp_path):
    cache = tmp_path / "mine.npz"
    options = (network, f"--gallery={faces}", f"--query={faces / 'Person_0' / 'Person_0_0001.png'}")
    options += (f"--cache={cache}", f"--out={tmp_path / 's.png'}")
    for content in (b"mine", _npz(a=np.ones(2)), _npz(made_with=np.array("{}"))):
        cache.write_bytes(content)
        assert "is no cache of kd-jax search" in one_sentence(main, *options)
        assert cache.read_bytes() == content
    assert not (tmp_path / "s.png").exists()


def _npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "--network is missing: type for example `kd-jax search --network="),
        (["--network=x", "--gallery=g"], "--query is missing"),
        (["--network=x", "--gallery=g", "--query=q", "--k=0"], "0 must be a whole number from 1"),
        (["--network=x", "--gallery=g", "--query=q", "--out=a.jpg"], "must be a name that ends in"),
        (["--network=x", "--gallery=g", "--query=q", "--cache=a"], "a name that ends in .npz"),
        (["--network=x", "--gallery=g", "--query=q", "--out=/proc/no/s.png"], "cannot be written"),
        (["--network=x", "--gallery=/nowhere", "--query=q"], "/nowhere cannot be read"),
        (["--network=/nowhere", "--gallery={faces}", "--query=q"], "is no finished stage"),
    ],
)
def test_what_the_user_can_fix_is_one_sentence(
    options, says, faces, one_sentence, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert says in one_sentence(main, *(option.format(faces=faces) for option in options))
    assert not list(tmp_path.iterdir())


def test_queries_and_galleries_that_do_not_fit(faces, network, trained, one_sentence, tmp_path):
    (tmp_path / "q.png").write_text("text")
    options = (network, f"--gallery={faces}", f"--out={tmp_path / 's.png'}")
    other = f"--gallery_network={trained[0] / 'teacher'}"
    query = f"--query={faces / 'Person_0' / 'Person_0_0001.png'}"
    assert "gallery has 32 columns and queries 16" in one_sentence(main, *options, query, other)
    for query, says in (("q.png", "is damaged or no image"), ("no.png", "cannot be read")):
        assert says in one_sentence(main, *options, f"--query={tmp_path / query}")


def test_the_pictures_of_a_sheet_keep_their_shape_and_color(tmp_path):
    """A cell is 160 pixels wide and 12 from the next; the text above takes 41."""
    files = {"red": (40, 400), "lime": (600, 30), "blue": (3, 3), "gray": (1, 1000)}
    for color, size in files.items():
        Image.new("RGB", size, color).save(tmp_path / f"{color}.png")
    Image.new("L", (300, 300), 90).save(tmp_path / "black.png")
    pictures = [Picture(str(tmp_path / f"{c}.png"), "0.5", "鳥\n" * 99) for c in files]
    query = Picture(str(tmp_path / "black.png"), "query", "q\udcff")
    pixels = np.asarray(Image.open(io.BytesIO(contact_sheet("title", [(query, pictures)]))))

    def extent(color):
        rows, columns = np.nonzero((pixels[41:201] == color).all(axis=2))  # without captions
        return *(rows.min(), columns.min()), *(1 + np.ptp(rows), 1 + np.ptp(columns))

    assert extent((90, 90, 90)) == (0, 12, 160, 160)
    assert extent((255, 0, 0)) == (0, 196 + 72, 160, 16)
    assert extent((0, 255, 0)) == (76, 368, 8, 160)
    assert extent((0, 0, 255)) == (0, 540, 159, 159)  # enlarged 53 times
    assert extent((128, 128, 128))[2:] == (160, 1)


def test_a_sheet_that_would_be_too_large_is_refused():
    with pytest.raises(ValueError, match="A sheet of 400 queries with 10 images each would have"):
        _contact_sheet.check_size(400, 10)
    _contact_sheet.check_size(10, 100)
