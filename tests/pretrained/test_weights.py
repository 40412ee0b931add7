"""Networks of finished stages: found, read, and used."""

import dataclasses
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from small_stage import example, make_stage

import kd_jax
from kd_jax.core.devices import data_mesh, replicated
from kd_jax.core.errors import UsageError
from kd_jax.core.hashing import content_hash
from kd_jax.methods import EKD
from kd_jax.pretrained import NetworkInfo, Weights, load
from kd_jax.pretrained.weights import read_adapters
from kd_jax.training import init_state
from kd_jax.training.checkpoints import Checkpoints

INFOS = {
    "teacher": NetworkInfo("tiny", {"width": 2.0}, 5, (8, 8), "bicubic", (0.5,), (0.25,)),
    "student": NetworkInfo("tiny", {}, 5, (4, 4), "box", (0.5,), (0.25,)),
}
META = {"networks": {role: dataclasses.asdict(info) for role, info in INFOS.items()}}
WHOLE = replicated(data_mesh(1))


def write_end(folder, last=2, best=1):
    """Writes the `stage.json` of a stage that ended with these checkpoints."""
    ended = {"last": {"step": last}, "best": {"step": best}}
    (folder / "stage.json").write_text(json.dumps(ended))


def random_state(seed, *, adapters=True):
    """Returns a state of the right shapes with random values; nothing is compiled."""
    stage = make_stage(method=EKD())
    rng = np.random.default_rng(seed)
    state = jax.tree.map(
        lambda leaf: jnp.asarray(rng.random(leaf.shape), leaf.dtype),
        jax.eval_shape(lambda: init_state(stage, example())),
    )
    state = state.replace(step=jnp.asarray(seed, jnp.int32))
    return state if adapters else state.replace(params={**state.params, "adapters": {}})


def write_stage(folder, scores, meta=META, **options):
    """Writes a finished stage with one checkpoint per score; the first one is at step 1."""
    with Checkpoints(folder / "checkpoints") as checkpoints:
        for step, score in enumerate(scores, start=1):
            checkpoints.save(random_state(step, **options), {}, meta, score=score)
    write_end(folder, len(scores), 1 + int(np.argmax(scores)))
    return folder


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """Folder of a stage with two networks; step 1 is the best and step 2 the last."""
    return write_stage(tmp_path_factory.mktemp("stage"), [0.9, 0.1])


@pytest.mark.parametrize(
    ("options", "role", "step"),
    [
        ({}, "student", 2),
        ({"checkpoint": "best"}, "student", 1),
        ({"role": "teacher"}, "teacher", 2),
        ({"role": "teacher", "checkpoint": "best"}, "teacher", 1),
    ],
)
def test_the_chosen_network_is_read(stage, options, role, step):
    trained = load(stage, **options)
    assert trained.info == INFOS[role]
    jax.tree.map(
        np.testing.assert_array_equal, trained.variables, random_state(step).variables(role)
    )
    (device,) = jax.tree.leaves(trained.variables)[0].devices()
    assert device == jax.devices()[0]


def test_without_a_student_the_first_role_is_read(tmp_path):
    meta = {"networks": {"teacher": META["networks"]["teacher"]}}
    assert load(str(write_stage(tmp_path, [0.5], meta))).info == INFOS["teacher"]


def test_a_trained_network_takes_images_as_they_are(stage):
    trained = kd_jax.load(stage)
    assert repr(trained) == f"Trained({trained.info.name}, 5 classes, 4x4x1)"
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), dtype=np.uint8)
    outputs = trained(images)
    assert outputs.logits.shape == (3, 5)
    jitted = jax.jit(trained)(images)
    np.testing.assert_allclose(jitted.embedding, outputs.embedding, rtol=1e-5, atol=1e-5)
    view = trained.views.evaluation(jnp.asarray(images))["student"]
    assert view.shape == (3, 4, 4, 1)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"role": "assistant"}, "has no role 'assistant': its roles are student, teacher"),
        ({"checkpoint": "latest"}, "checkpoint of key = 'latest' is unknown: choose one of last"),
    ],
)
def test_what_there_is_not_is_named(stage, options, says):
    with pytest.raises(UsageError, match=says):
        load(stage, key="key", **options)


def test_a_stage_must_be_finished(tmp_path):
    with pytest.raises(UsageError, match=r"stage = '.*nothing' is no finished stage"):
        load(tmp_path / "nothing")
    (tmp_path / "checkpoints").mkdir()
    write_end(tmp_path)
    with pytest.raises(UsageError, match="of step 2, but there is none: delete the folder"):
        load(tmp_path)
    (tmp_path / "stage.json").write_text("[]")
    with pytest.raises(UsageError, match=r"damaged stage.json .*: delete the folder and train or"):
        load(tmp_path)


@pytest.mark.parametrize("networks", [{}, None, ["student"]])
def test_a_stage_of_another_program_is_one_sentence(tmp_path, networks):
    write_stage(tmp_path / "stage", [0.5], meta={"networks": networks})
    with pytest.raises(UsageError, match="describes no network: name another folder"):
        load(tmp_path / "stage")


def test_an_older_checkpoint_does_not_replace_the_last(stage, tmp_path):
    """The table of results says step 2: a student of step 1 would be another network."""
    folder = tmp_path / "stage"
    shutil.copytree(stage, folder)
    shutil.rmtree(folder / "checkpoints" / "2")
    with pytest.raises(UsageError, match="of step 2, but the stored one is of step 1: delete"):
        load(folder)
    load(folder, checkpoint="best")


def test_a_flipped_bit_in_the_weights_is_found(stage, tmp_path):
    folder = tmp_path / "stage"
    shutil.copytree(stage, folder)
    # The largest file of the network holds its values.
    files = (folder / "checkpoints" / "2" / "network_student").rglob("*")
    path = max((f for f in files if f.is_file()), key=lambda f: f.stat().st_size)
    content = bytearray(path.read_bytes())
    whole, found = load(folder).variables, 0
    for position in np.random.default_rng(0).integers(0, len(content), 8):
        damaged = bytearray(content)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        try:
            read = load(folder).variables
        except UsageError as error:
            assert re.search(r"is damaged \(.*delete .* train or import", str(error))
            found += 1
        else:  # some bytes of the file are not used
            jax.tree.map(np.testing.assert_array_equal, read, whole)
    assert found >= 4
    path.write_bytes(content)
    load(folder)


def test_the_classifier_may_stay_fresh(stage):
    weights = Weights.find(epath.Path(stage), "student", "last", "key")
    fresh = random_state(9).variables("student")
    head = {"kernel": jnp.zeros((16, 3)), "bias": jnp.zeros(3)}
    fresh = {**fresh, "params": {**fresh["params"], "classifier": head}}
    variables = weights.read_without_head(fresh, WHOLE)
    stored = dict(random_state(2).variables("student"))
    jax.tree.map(np.testing.assert_array_equal, variables["params"].pop("classifier"), head)
    stored["params"] = {k: v for k, v in stored["params"].items() if k != "classifier"}
    jax.tree.map(np.testing.assert_array_equal, variables, stored)


def test_a_fresh_classifier_needs_the_same_network(stage):
    weights = Weights.find(epath.Path(stage), "student", "last", "key")
    with pytest.raises(UsageError, match="differs from this network in more than the classifier"):
        weights.read_without_head(random_state(9).variables("teacher"), WHOLE)
    with pytest.raises(UsageError, match=r"classifier is called 'classifier', but 'tiny' has none"):
        weights.read_without_head({"params": {"head": jnp.zeros(2)}}, WHOLE)


def test_adapters_are_read_by_name(stage, tmp_path):
    adapters = read_adapters(epath.Path(stage), "key", WHOLE)
    jax.tree.map(np.testing.assert_array_equal, adapters, random_state(2).params["adapters"])
    without = write_stage(tmp_path, [0.5], adapters=False)
    with pytest.raises(UsageError, match=r"key = .* has no adapters: leave it out"):
        read_adapters(epath.Path(without), "key", WHOLE)
    with pytest.raises(UsageError, match=r"key = .* is no finished stage"):
        read_adapters(epath.Path(tmp_path / "nothing"), "key", WHOLE)


def test_weights_are_recognized_wherever_their_run_is(stage):
    folder = epath.Path(stage)
    weights = Weights.find(folder, "teacher", "best", "key")
    variables = random_state(1).variables("teacher")
    inside = weights.provenance(variables, folder.parent)
    assert inside == {
        "folder": folder.name,
        "role": "teacher",
        "step": 1,
        "hash": content_hash(variables),
    }
    assert json.loads(json.dumps(inside)) == inside
    assert weights.provenance(variables, folder / "other")["folder"] == str(folder)


def test_a_hash_depends_on_names_shapes_types_and_values():
    array = np.arange(4, dtype=np.float32)
    trees = [
        {"a": array},
        {"b": array},
        {"a": array.reshape(2, 2)},
        {"a": array.view(np.int32)},
        {"a": array + 1},
    ]
    assert len({content_hash(tree) for tree in trees}) == len(trees)
    assert content_hash({"a": jnp.asarray(array)}) == content_hash({"a": array})
