"""A user's own parts in every command; each process imports them anew."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
import small_faces

HERE = pathlib.Path(__file__).parent
CONFIG = f"--config={HERE / 'own_config.py'}"


def python(*arguments):
    """Runs Python in a process of its own."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=HERE.parents[1],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def kd_jax(*arguments):
    return python("-m", "kd_jax", *arguments)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The user's file, faces, and a run whose first stage is finished."""
    folder = tmp_path_factory.mktemp("own")
    shutil.copy(HERE / "own_parts.py", folder / "mine.py")
    small_faces.write(folder / "faces")
    mine, workdir = f"--import={folder / 'mine.py'}", f"--workdir={folder / 'run'}"
    done = kd_jax("train", CONFIG, mine, workdir, "--stages=teacher")
    assert done.returncode == 0, done.stderr
    return folder


LATER = """
import sys
import kd_jax
from kd_jax.commands import main
folder = sys.argv[1]
network, images = f"--network={folder}/run/teacher", f"{folder}/faces"
print(kd_jax.load(f"{folder}/run/teacher").info.imports)
codes = [
    main(["embed", network, f"--images={images}", f"--out={folder}/embeddings.npz"]),
    main(["evaluate", network, f"--folder={images}", "--identities=4", "--probe_sizes=full"]),
    main(["train", sys.argv[2], f"--workdir={folder}/run", f"--config.imports={folder}/mine.py",
          "--config.data.source.classes=2"]),
]
assert codes == [0, 0, 0], codes
"""


@pytest.mark.long  # tests/test_contributing.py trains with parts of one's own
def test_own_parts_work_in_every_command(trained):
    stage = json.loads((trained / "run" / "teacher" / "stage.json").read_text())
    assert stage["network"] == "own_network"
    assert stage["last"]["own/constant"] == 0.25
    done = python("-c", LATER, trained, CONFIG)  # without --import
    assert done.returncode == 0, done.stderr
    assert str(trained / "mine.py") in done.stdout
    assert "40 embeddings of 3 numbers" in done.stdout
    assert "rank 1" in done.stdout
    results = json.loads((trained / "run" / "results.json").read_text())
    assert [stage["name"] for stage in results["stages"]] == ["teacher", "student"]
    assert results["stages"][1]["last"]["own/constant"] == 0.25
    log = (trained / "run" / "student" / "metrics.jsonl").read_text()
    assert "distance" in json.loads(log.splitlines()[-1])["train"]


MOVED = """
import pathlib
import sys
from kd_jax.commands import main
folder, config, new = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
run, images = folder / "run", f"--images={folder}/faces"
unknown = main(["train", config, f"--workdir={new}"])
gone = main(["embed", f"--network={run}/teacher", images, f"--out={folder}/embeddings.npz"])
(run / "teacher" / "stage.json").unlink()  # the stage resumes at its last step
moved = [f"--import={folder}/moved.py", f"--workdir={run}", "--stages=teacher"]
resumed = main(["train", config, *moved])
assert [unknown, gone, resumed] == [2, 2, 0], [unknown, gone, resumed]
"""


def test_a_file_that_is_gone_is_one_sentence_and_a_new_place_works(trained, tmp_path):
    """So is a part that nothing registers."""
    moved = (trained / "mine.py").rename(trained / "moved.py")
    try:
        done = python("-c", MOVED, trained, CONFIG, tmp_path / "run")
    finally:
        moved.rename(trained / "mine.py")
    assert done.returncode == 0, done.stderr
    unknown, gone = [x for x in done.stderr.splitlines() if x.startswith("error: ")]
    assert "data.source.name = 'own_source' is unknown" in unknown
    assert not (tmp_path / "run").exists()
    assert gone.startswith("error: The network 'own_network' needs the module that")
    assert "mine.py is not a file" in gone
    assert "--import=FILE" in gone
    assert done.stderr.startswith(f"{unknown}\n{gone}\n")  # each is all that its command says


def test_imports_of_a_config_come_before_the_command_line(trained, tmp_path):
    """A key below one of the user's own entries is set."""
    config = tmp_path / "config.py"
    config.write_text(
        "import runpy\n"
        "def get_config():\n"
        f"    config = runpy.run_path({str(HERE / 'own_config.py')!r})['get_config']()\n"
        f"    config.imports = [{str(trained / 'mine.py')!r}]\n"
        "    return config\n"
    )
    source = "--config.data.source.classes=3"
    done = kd_jax("train", f"--config={config}", "--print_config", source)
    assert done.returncode == 0, done.stderr
    assert "data.source.classes = 3  # number of classes.\n" in done.stdout
