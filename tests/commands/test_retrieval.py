"""Retrieval in folders of classes: `kd-jax evaluate --retrieval`."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import kd_jax
from kd_jax.commands.evaluate import main
from kd_jax.evaluation import retrieval


@pytest.fixture
def network(trained):
    return f"--network={trained[0] / 'student'}"


@pytest.fixture(scope="module")
def embedded(faces, trained):
    """Embeds the faces by their paths below the folder, at a size."""
    embedder = kd_jax.Embedder(kd_jax.load(trained[0] / "student"))

    def embed(paths, size=None):
        return embedder(np.stack([np.asarray(Image.open(faces / p)) for p in paths]), size=size)

    return embed


def evaluated(out, *arguments):
    assert main([*map(str, arguments), f"--out={out}"]) == 0
    return json.loads(out.read_text())


def test_a_folder_at_two_resolutions(faces, network, embedded, tmp_path, capsys):
    options = ("--resolutions=full,4", "--metrics=recall,map_at_r,nmi", "--ks=1,3")
    found = evaluated(tmp_path / "r.json", network, f"--retrieval={faces}", *options)
    paths = sorted(path.relative_to(faces) for path in faces.glob("Person_*/*.png"))
    labels = [path.parent.name for path in paths]
    sharp = embedded(paths)
    for name, size in (("full", None), ("4", 4)):
        expected = retrieval(
            embedded(paths, size), labels, sharp, ks=(1, 3), metrics=("recall", "map_at_r", "nmi")
        )
        assert found["resolutions"][name] == pytest.approx(expected.to_json())
    assert found["mode"] == "hr_lr"
    assert found["degradation"] == {"down": "bicubic", "up": "bicubic", "blur": 0.5}
    assert found["fit"] == [14, 12]
    value = 100 * found["resolutions"]["4"]["recall_at_3"]
    assert f"{value:.2f}" in capsys.readouterr().out.splitlines()[3]


def test_queries_of_other_images_by_another_network(
    faces, network, trained, tmp_path, one_sentence, capsys
):
    """Two images of each person query the others. Gray, tall and large files are fitted."""
    for path in faces.glob("Person_*/*.png"):
        side = "queries" if path.stem[-1] in "12" else "gallery"
        (tmp_path / side / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / side / path.parent.name)
    for i, mode in enumerate(("L", "RGBA", "P")):
        image = Image.open(faces / f"Person_{i}" / f"Person_{i}_0001.png").convert(mode)
        image.resize((60, 210)).save(tmp_path / "queries" / f"Person_{i}" / "other.png")
    options = (f"--retrieval={tmp_path / 'queries'}", f"--gallery={tmp_path / 'gallery'}")
    found = evaluated(tmp_path / "r.json", network, *options, "--mode=lr_lr")
    result = found["resolutions"]["full"]
    assert (result["queries"], result["gallery"], result["classes"]) == (19, 24, 8)
    assert 0.2 < result["recall_at_1"] <= 1
    other = f"--gallery_network={trained[0] / 'student'}"  # read a second time
    found = evaluated(tmp_path / "r.json", network, *options, other)
    assert found["resolutions"]["full"] == result
    capsys.readouterr()
    other = f"--gallery_network={trained[0] / 'teacher'}"
    says = "gallery has 32 columns and embeddings 16: embed both with networks of one"
    assert says in one_sentence(main, network, *options, other)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--ks=0"], "--ks=0 must be whole numbers from 1 on"),
        (["--ks=40"], "ks must be integers from 1 to 39"),
        (["--metrics=recal"], "--metrics = 'recal' is unknown: choose one of recall"),
        (["--fit=7x6"], "--fit=7x6 is smaller than the input of a network, 14x12"),
        (["--fit=24x12"], "would be squeezed to the input size of the network, 14x12"),
        (["--fit=9000x9000"], "--fit=9000x9000 is impossible (size must be at most"),
        (["--resolutions=15"], "cannot be reduced to 15: choose 1 to 14"),
        (["--gallery=/nowhere"], "/nowhere cannot be read"),
        (["--gallery_network=/tmp"], "--gallery_network = '/tmp' is no finished stage"),
        (["--gallery_role=teacher"], "has no role 'teacher'"),
        (["--identities=3"], "--identities is not used with --retrieval"),
    ],
)
def test_what_the_user_can_fix_is_one_sentence(faces, network, one_sentence, options, says):
    assert says in one_sentence(main, network, f"--retrieval={faces}", *options)


def test_a_folder_without_classes(faces, network, one_sentence):
    folder = faces / "Person_0"
    assert "holds no folders" in one_sentence(main, network, f"--retrieval={folder}")
    says = "--fit is not used with --folder"
    assert says in one_sentence(main, network, f"--folder={faces}", "--fit=3x3")
