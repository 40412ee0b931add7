import copy

import jax
import numpy as np
import pytest
import small_config

import kd_jax
from kd_jax.core.errors import UsageError
from kd_jax.data.sources.digits import Digits
from kd_jax.experiment.run import Run
from kd_jax.models import Outputs
from kd_jax.models.recorded import Recorded
from kd_jax.pretrained.recorded import read_recorded

TRAIN = Digits().load("train[:160]")
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(160, 10)).astype(np.float32)
EMBEDDINGS = (5 + RNG.normal(size=(160, 7))).astype(np.float16)


@pytest.fixture
def file(tmp_path):
    """Writes a file of recorded outputs; returns its path."""

    def write(**arrays):
        np.savez(tmp_path / "outputs.npz", **arrays)
        return str(tmp_path / "outputs.npz")

    return write


def config(path, method=None, **network):
    values = small_config.get_config().to_dict()
    values["data"]["augmentation"] = {}
    student = copy.deepcopy(values["stages"]["student"])
    student["networks"]["teacher"] = {"name": "recorded", "path": path, **network}
    student["method"] = method or {"name": "kd"}
    values["stages"], values["pipeline"] = {"student": student}, []
    return values


def test_rows_follow_the_names_of_the_images(file):
    order = RNG.permutation(160)
    recorded = read_recorded(file(logits=LOGITS[order], names=order), "path")
    variables = recorded.variables(recorded.select(TRAIN.names, "path"), center=False)
    np.testing.assert_array_equal(variables["recorded"]["logits"], LOGITS)
    kept = TRAIN.keep(np.array([3, 1]))
    rows = recorded.select(kept.names, "path")
    np.testing.assert_array_equal(recorded.logits[rows], LOGITS[[3, 1]])


def test_centered_embeddings_have_length_1_and_no_common_direction(file):
    recorded = read_recorded(file(embeddings=EMBEDDINGS), "path")
    table = recorded.variables(np.arange(160), center=True)["recorded"]["embedding"]
    np.testing.assert_allclose(np.linalg.norm(table, axis=1), 1, rtol=1e-6)
    assert np.abs(np.mean(table, axis=0)).max() < 0.1  # 5 / norm before


ALL = Digits().load("train")
ONE_HOT = np.eye(10, dtype=np.float32)[ALL.labels]
PIXELS = ALL.images.reshape(len(ALL), -1).astype(np.float32)


@pytest.mark.parametrize("name", ["logits", "embeddings"])
def test_outputs_in_another_order_are_refused(file, name):
    """1,437 digits in a random order; one-hot labels, and pixels as embeddings."""
    table = {"logits": ONE_HOT, "embeddings": PIXELS}[name]
    rows, key = np.arange(len(ALL)), "path"
    read_recorded(file(**{name: table}), key).check_labels(rows, ALL.labels, key)
    for order in (np.random.default_rng(1).permutation(len(ALL)), np.roll(rows, 1), rows[::-1]):
        recorded = read_recorded(file(**{name: table[order]}), key)
        with pytest.raises(UsageError, match=r"path = .* does not belong to the training images: "):
            recorded.check_labels(rows, ALL.labels, key)
        recorded = read_recorded(file(**{name: table[order]}, names=order), key)
        recorded.check_labels(recorded.select(rows, key), ALL.labels, key)


@pytest.mark.parametrize(
    ("outputs", "labels"),
    [
        ({"logits": np.roll(ONE_HOT, 1, 0)[:199]}, ALL.labels[:199]),  # too few to judge
        ({"logits": np.roll(ONE_HOT, 1, 0)}, np.zeros_like(ALL.labels)),  # one class
        ({"embeddings": np.roll(PIXELS, 1, 0)}, np.zeros_like(ALL.labels)),
        ({"embeddings": np.roll(PIXELS, 1, 0)}, np.arange(len(ALL))),  # no two of one class
        ({"logits": np.r_[ONE_HOT[:200], np.roll(ONE_HOT, 1, 0)[200:]]}, ALL.labels),  # weak
    ],
)
def test_outputs_that_may_be_right_are_used(file, outputs, labels):
    read_recorded(file(**outputs), "path").check_labels(np.arange(len(labels)), labels, "path")


def test_the_order_is_checked_before_anything_is_written(file, tmp_path):
    path = file(logits=np.roll(ONE_HOT, 1, 0))
    values = config(path)
    values["data"]["train_split"] = "train"
    says = (
        r"^stages\.student\.networks\.teacher\.path = .* is 10\.30%, and chance is 10\.00%; record"
    )
    with pytest.raises(UsageError, match=says):
        Run(values, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_recorded_network_looks_up_its_rows():
    network = Recorded(num_classes=10, num_images=160)
    outputs = network.apply({"recorded": {"logits": LOGITS}}, np.array([2, 2, 0]), train=False)
    assert isinstance(outputs, Outputs)
    np.testing.assert_array_equal(outputs.logits, LOGITS[[2, 2, 0]])


def test_a_recorded_teacher_teaches_as_the_network_does(finished_teacher, file, tmp_path):
    """The outputs of a network, recorded, give the numbers of the network itself."""
    workdir, values = finished_teacher
    teacher = kd_jax.load(workdir / "teacher")
    outputs = teacher(TRAIN.images)
    path = file(logits=np.asarray(outputs.logits), embeddings=np.asarray(outputs.embedding))
    direct = copy.deepcopy(values)
    direct["stages"]["student"]["method"] = {"name": "kd"}
    direct["data"]["augmentation"] = {}
    direct["stages"]["student"]["networks"]["teacher"] = {"init_from": str(workdir / "teacher")}
    direct["stages"] = {"student": direct["stages"]["student"]}
    direct["pipeline"] = []
    (one,) = kd_jax.run(direct, tmp_path / "direct")["stages"]
    (two,) = kd_jax.run(config(path), tmp_path / "recorded")["stages"]
    assert two["last"]["accuracy"] == one["last"]["accuracy"]
    assert two["last"]["cross_entropy"] == pytest.approx(one["last"]["cross_entropy"], rel=1e-4)
    assert "accuracy/teacher" not in two["last"]  # it has no outputs for test images


@pytest.fixture(scope="module")
def finished_teacher(tmp_path_factory):
    values = small_config.get_config().to_dict()
    workdir = tmp_path_factory.mktemp("teacher")
    kd_jax.run(values, workdir, stages=["teacher"])
    return workdir, values


@pytest.mark.parametrize(
    ("arrays", "network", "method", "says"),
    [
        ({"scores": LOGITS}, {}, None, "has 'scores', but neither logits nor embeddings"),
        ({"logits": LOGITS[:, :9]}, {}, None, "has logits of 9 classes, but the images have 10"),
        ({"logits": LOGITS[:50]}, {}, None, "has no outputs of 110 of the 160 training images"),
        ({"logits": LOGITS, "names": np.zeros(160, int)}, {}, None, "names an image twice"),
        ({"logits": LOGITS, "names": np.arange(3)}, {}, None, "names of the shape [3]"),
        ({"logits": LOGITS.astype(int)}, {}, None, "must be floating-point numbers"),
        ({"logits": np.float32(1)}, {}, None, "must be floating-point numbers"),
        ({"logits": LOGITS, "names": np.zeros(160, bool)}, {}, None, "names that are bool [160]"),
        ({"logits": LOGITS * np.nan}, {}, None, "logits that are NaN or infinite"),
        ({"embeddings": EMBEDDINGS}, {}, None, "needs the logits of the recorded network"),
        ({"logits": LOGITS}, {}, {"name": "rkd"}, "needs the embedding of the recorded network"),
        ({"logits": LOGITS}, {}, {"name": "supervised"}, "the networks are student, teacher"),
        ({"logits": LOGITS}, {"name": "tiny"}, None, "are used together, or not at all"),
    ],
)
def test_what_does_not_fit_is_one_sentence(file, tmp_path, arrays, network, method, says):
    values = config(file(**arrays), method, **network)
    with pytest.raises(UsageError) as error:
        kd_jax.run(values, tmp_path / "run")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_augmentation_is_refused_unless_it_is_wanted(file, tmp_path):
    values = config(file(logits=LOGITS))
    values["data"]["augmentation"] = {"flip": True}
    with pytest.raises(UsageError, match="outputs of the original images"):
        kd_jax.run(values, tmp_path)
    values["stages"]["student"]["networks"]["teacher"]["augmented"] = True
    assert kd_jax.run(values, tmp_path)["stages"][0]["last"]["step"] == 20


@pytest.mark.parametrize("name", ["logits", "embeddings"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_a_row_that_is_not_finite_is_refused_when_the_file_is_read(file, name, value):
    table = np.zeros((40_000, 2))
    table[39_999, 1] = value  # no set has to choose this row
    with pytest.raises(UsageError, match="that are NaN or infinite: record again"):
        read_recorded(file(**{name: table}), "path")


def test_a_file_that_is_no_npz(tmp_path):
    (tmp_path / "outputs.npz").write_text("no")
    with pytest.raises(UsageError, match="cannot be read"):
        read_recorded(str(tmp_path / "outputs.npz"), "path")


def test_a_loop_of_ones_own_needs_the_index():
    import optax

    student = kd_jax.models.create("resnet8", num_classes=10, width=0.25)
    networks = {"teacher": Recorded(num_classes=10, num_images=160), "student": student}
    stage = kd_jax.Stage(networks, kd_jax.methods.KD(), optax.sgd(0.1))
    frozen = {"teacher": {"recorded": {"logits": LOGITS}}}
    batch = {"image": np.ones((4, 8, 8, 3), np.float32), "label": np.arange(4, dtype=np.int32)}
    indexed = {**batch, "index": np.arange(4, dtype=np.int32)}

    def step(batch):
        state = kd_jax.init_state(stage, indexed, frozen)
        return kd_jax.train_step(stage, state, frozen, batch)[1]

    assert "soft_target_kl" in jax.eval_shape(step, indexed)
    with pytest.raises(UsageError, match="batch has no index"):
        jax.eval_shape(step, batch)
