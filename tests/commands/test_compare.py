"""The command that compares runs; `tests/experiment/test_compare.py` checks its numbers."""

import pytest

from kd_jax.commands.compare import main


def test_a_run_with_itself(trained, tmp_path, capsys):
    workdir, summary = trained
    assert main([str(workdir), f"--output={tmp_path / 'out'}"]) == 0
    printed = capsys.readouterr().out
    assert all(f"| {stage['name']} " in printed for stage in summary["stages"])
    assert (tmp_path / "out" / "compare.md").read_text() in printed + "\n"
    assert (tmp_path / "out" / "compare.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "RUN is missing: type for example `kd-jax compare runs/kd runs/horkd`"),
        (["none"], "none has no results.json"),
        (["{run}", "--stages=studnt"], "--stages = 'studnt' is unknown"),
        (["{run}", "--baseline=none"], "--baseline = 'none' is unknown"),
        (["{run}", "--output=/dev/null/x"], "--output=/dev/null/x cannot be written"),
    ],
)
def test_what_the_user_can_fix_is_one_sentence(one_sentence, trained, arguments, says):
    words = [word.format(run=trained[0]) for word in arguments]
    assert says in one_sentence(main, *words)
