"""`kd-jax import`: the folder that it writes, what it prints, and its errors."""

import json

import jax
import numpy as np
import pytest
import small_config
from small_weights import write_pytorch

import kd_jax
from kd_jax.commands import main
from kd_jax.pretrained import Embedder, import_weights

MEAN, STD = (0.48, 0.46, 0.41), (0.23, 0.22, 0.21)
NUMBERS = ["--mean=0.48,0.46,0.41", "--std=0.23,0.22,0.21"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Path of a file of weights, with the network and its variables."""
    path = tmp_path_factory.mktemp("weights") / "resnet8.npz"
    return path, *write_pytorch(path, width=0.25, shortcut="A")


OPTIONS = ["--network=resnet8", "--options.width=0.25", "--options.shortcut=A"]


def test_the_folder_is_that_of_a_finished_stage(tmp_path, capsys, weights):
    path, network, variables = weights
    out = tmp_path / "imported" / "resnet8"
    arguments = [f"--weights={path}", *OPTIONS, *NUMBERS, "--size=8x8", f"--out={out}"]
    assert main(["import", *arguments]) == 0
    printed = capsys.readouterr().out
    for words in (
        "resnet8 with width = 0.25, shortcut = 'A'\n",
        "resnet_shortcut_linear: RepDistiller's resnetv2.py,",
        f"{sum(leaf.size for leaf in jax.tree.leaves(variables['params'])):,}\n",
        "10\n",
        "8x8, channels: 3\n",
        f"{out} can be used as a finished stage\n",
    ):
        assert words in printed
    trained = kd_jax.load(out)
    jax.tree.map(np.testing.assert_array_equal, trained.variables, variables)
    info = trained.info
    assert (info.name, info.options) == ("resnet8", {"width": 0.25, "shortcut": "A"})
    assert (info.num_classes, info.size, info.filter) == (10, (8, 8), "bicubic")
    assert (info.mean, info.std) == (MEAN, STD)
    stage = json.loads((out / "stage.json").read_text())
    assert stage["imported"]["file"] == "resnet8.npz"
    assert stage["imported"]["table"] == "resnet_shortcut_linear"
    assert stage["imported"]["sha256"] in printed

    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    view = (images.astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
    outputs = jax.jit(lambda x: network.apply(variables, x, train=False))(view)
    np.testing.assert_allclose(jax.jit(trained)(images).logits, outputs.logits, rtol=1e-4)
    embeddings = Embedder(trained, batch_size=5, num_devices=1)(images)
    np.testing.assert_allclose(embeddings, outputs.embedding, rtol=1e-4)


def test_without_out_it_says_what_fits(tmp_path, capsys, monkeypatch, weights):
    monkeypatch.chdir(tmp_path)
    assert main(["import", f"--weights={weights[0]}", *OPTIONS]) == 0
    printed = capsys.readouterr().out
    assert "32x32, channels: 3" in printed
    assert "finished stage" not in printed
    assert not list(tmp_path.iterdir())


def test_bgr_swaps_the_channels(tmp_path, weights):
    path, _, variables = weights
    out = tmp_path / "bgr"
    arguments = [f"--weights={path}", *OPTIONS, "--mean=0.5", "--std=0.25", f"--out={out}", "--bgr"]
    assert main(["import", *arguments]) == 0
    trained = kd_jax.load(out)
    assert (trained.info.mean, trained.info.std) == ((0.5,) * 3, (0.25,) * 3)
    kernel = variables["params"]["stem_conv"]["kernel"]
    np.testing.assert_array_equal(
        trained.variables["params"]["stem_conv"]["kernel"], kernel[:, :, ::-1]
    )
    options = {"width": 0.25, "shortcut": "A"}
    swapped = import_weights(path, "resnet8", options=options, bgr=True)
    jax.tree.map(np.testing.assert_array_equal, trained.variables, swapped)


def test_what_the_table_knows_need_not_be_given(tmp_path, capsys):
    path, out = tmp_path / "sphereface.npz", tmp_path / "out"
    options = ["--network=sphereface20", "--options.width=0.05", "--size=16x16"]
    _, variables = write_pytorch(path, "sphereface20", shape=(16, 16, 3), table=0, width=0.05)
    kernel = variables["params"]["stage1_conv"]["kernel"]
    assert main(["import", f"--weights={path}", *options, f"--out={out}"]) == 0
    printed = capsys.readouterr().out
    assert "16x16, channels: 3 (the weights see BGR)\n" in printed
    assert "originals   mean 0.5,0.5,0.5, std 0.50196,0.50196,0.50196\n" in printed
    trained = kd_jax.load(out)
    assert (trained.info.mean, trained.info.std) == ((0.5,) * 3, (0.50196,) * 3)
    np.testing.assert_array_equal(
        trained.variables["params"]["stage1_conv"]["kernel"], kernel[:, :, ::-1]
    )
    given = ["--mean=0.4", "--std=0.3", "--no-bgr", f"--out={tmp_path / 'given'}"]
    assert main(["import", f"--weights={path}", *options, *given]) == 0
    trained = kd_jax.load(tmp_path / "given")
    assert (trained.info.mean, trained.info.std) == ((0.4,) * 3, (0.3,) * 3)
    np.testing.assert_array_equal(trained.variables["params"]["stage1_conv"]["kernel"], kernel)


def test_a_run_starts_from_the_folder(tmp_path):
    path, out = tmp_path / "resnet8.npz", tmp_path / "teacher"
    _, variables = write_pytorch(path, shape=(8, 8, 1), width=0.25, shortcut="A")
    arguments = [f"--weights={path}", *OPTIONS, "--mean=0.3", "--std=0.4", "--size=8x8"]
    assert main(["import", *arguments, f"--out={out}"]) == 0
    config = small_config.student_config(out)
    stage = config["stages"]["student"]
    stage["method"] = {"name": "kd"}
    stage["epochs"] = 1.0
    stage["optimizers"]["default"]["learning_rate"] = 1e-7  # the weights stay what they were
    stage["networks"]["student"] = {"init_from": str(out), "resolution": 4}
    results = kd_jax.run(config, tmp_path / "run")
    assert results["stages"][0]["network"] == "resnet8"
    trained = kd_jax.load(tmp_path / "run" / "student")
    assert trained.info.mean == (0.3,)
    assert trained.info.options == {"width": 0.25, "shortcut": "A"}
    for ours, first in zip(
        jax.tree.leaves(trained.variables["params"]),
        jax.tree.leaves(variables["params"]),
        strict=True,
    ):
        np.testing.assert_allclose(ours, first, atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--network=resnet8"], "--weights is missing: type for example `kd-jax import --weig"),
        (["--weights={}"], "--network is missing"),
        (["--weights={}", *OPTIONS, "--out=new"], "--mean is missing"),
        (["--weights={}", *OPTIONS, "--out=new", "--mean=0.5"], "--std is missing"),
        (["--weights={}", *OPTIONS, "--mean=0.5,x"], "--mean=0.5,x must be numbers separated by"),
        (["--weights={}", *OPTIONS, "--mean=nan"], "--mean=nan must be numbers"),
        (["--weights={}", *OPTIONS, "--std=0.2,0"], "--std=0.2,0 must be greater than 0"),
        (["--weights={}", *OPTIONS, "--size=8"], "--size=8 must be HEIGHTxWIDTH"),
        (["--weights={}", *OPTIONS, "--filter=cubic"], "--filter = 'cubic' is unknown"),
        (["--weights={}", *OPTIONS, "--options.shortcut"], "--options.shortcut needs a value"),
        (["--weights={}", *OPTIONS, "--options.widht=2"], "resnet8 option = 'widht' is unknown"),
        (["--weights={}", *OPTIONS, "--options.shortcut=B"], "it lacks layer2.0.shortcut.0.weight"),
        (["--weights={}", *OPTIONS, "--num_classes=3"], "leave out num_classes, which linear.w"),
        (["--weights={}", "--network=resnet9"], "network = 'resnet9' is unknown: choose one of"),
        (["--weights=no.pth", *OPTIONS], "no.pth cannot be read (No such file or directory)"),
        (
            ["--weights={}", *OPTIONS, "--out=new", "--mean=0.5,0.5", "--std=0.5"],
            "--mean has 2 numbers, but the network sees 3 channels",
        ),
        (["--weights={}", *OPTIONS, *NUMBERS, "--out=."], "--out = '.' exists and is not empty"),
    ],
)
def test_what_the_user_can_fix_is_one_sentence(
    one_sentence, tmp_path, monkeypatch, weights, arguments, says
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    filled = [argument.format(weights[0]) for argument in arguments]
    assert says in one_sentence(main, "import", *filled)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
