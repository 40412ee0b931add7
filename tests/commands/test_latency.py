"""The command that measures networks."""

import json

import pytest
from small_trained import small_trained

from kd_jax.commands.latency import main
from kd_jax.pretrained.exporting import FORMATS


def test_networks_are_compared(tmp_path, capsys):
    path, out = tmp_path / "student.safetensors", tmp_path / "new" / "latency.json"
    path.write_bytes(FORMATS["safetensors"].write(small_trained(), (4, 4)))
    options = ["--batch_sizes=2", f"--network={path}", f"--network={path}", f"--out={out}"]
    assert main(options) == 0
    table = capsys.readouterr().out.splitlines()
    assert "| ms at 2 |" in table[0]
    assert [cell.strip() for cell in table[2].split("|")[1:5]] == [
        str(path),
        "tiny",
        "4x4",
        "1,357",
    ]
    results = json.loads(out.read_text())
    first, second = results["networks"]
    assert first["multiply_adds"] == second["multiply_adds"] == 1520
    assert first["milliseconds"]["2"] > 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--network is missing: type for example `kd-jax latency --network="),
        (["--network=x", "--batch_sizes=0"], "--batch_sizes=0 must be numbers from 1"),
        (["--network=x", "--role=a", "--role=b"], "--role is given 2 times and --network 1 times"),
        (["--network=x", "--out=/proc/no/e"], "cannot be written"),
        (["--network=/nowhere"], "is no finished stage"),
    ],
)
def test_what_the_user_can_fix_is_one_sentence(one_sentence, arguments, says):
    assert says in one_sentence(main, *arguments)
