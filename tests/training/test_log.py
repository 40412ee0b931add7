import json

from etils import epath

from kd_jax.training.log import MetricsLog, ProgressLine


def test_a_resumed_log_drops_the_lines_after_the_checkpoint(tmp_path):
    path = epath.Path(tmp_path / "metrics.jsonl")
    log = MetricsLog(path, -1)
    for step in (10, 20, 30):
        log.write({"step": step, "loss": 1.5})
    MetricsLog(path, 20).write({"step": 30, "loss": 2.5})
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert entries == [
        {"step": 10, "loss": 1.5},
        {"step": 20, "loss": 1.5},
        {"step": 30, "loss": 2.5},
    ]


def test_only_one_process_writes(tmp_path):
    path = epath.Path(tmp_path / "metrics.jsonl")
    MetricsLog(path, -1, enabled=False).write({"step": 1})
    assert not path.exists()


def test_speed_leaves_out_compilation_and_evaluation(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    line = ProgressLine("student", 100, 64, enabled=False)
    line.pause()
    now[0] = 30.0  # compilation
    line.advance(1, 1, 0.5)
    assert line.images_per_second == 0
    now[0] = 32.0
    line.advance(11, 10, 0.5)
    line.pause()
    now[0] = 90.0  # evaluation
    line.advance(12, 1, 0.5)
    now[0] = 91.0
    line.advance(17, 5, 0.5)
    assert line.images_per_second == 15 * 64 / 3


def test_a_line_has_the_remaining_time(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    line = ProgressLine("student", 1000, 50)
    now[0] = 10.0
    line.advance(100, 100, 0.25)
    err = capsys.readouterr().err
    assert err == "[student] step 100/1000, loss 0.25, 500 images/s, 1m30s left\n"


def test_steps_between_two_evaluations_are_counted_as_a_whole(monkeypatch):
    """An epoch of one step has a speed too; the first step, which compiles, has none."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    line = ProgressLine("student", 100, 64, enabled=False)
    line.pause()
    line.begin()
    now[0] = 30.0  # compilation
    line.advance(1, 1, 0.5)
    assert line.images_per_second == 0
    for step in (2, 3):
        line.pause()
        now[0] += 10.0  # evaluation
        line.begin()
        now[0] += 2.0
        line.advance(step, 1, 0.5)
    assert line.images_per_second == 32


def test_before_the_speed_is_known_there_is_no_pace(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    line = ProgressLine("student", 660, 64)
    line.pause()
    now[0] = 20.0
    line.advance(1, 1, 2.461)
    assert capsys.readouterr().err == "[student] step 1/660, loss 2.461\n"


def test_the_time_of_all_stages_counts_later_stages_and_evaluations(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    line = ProgressLine("student", 100, 10, later=50.0)
    for step, evaluation in ((10, 0.0), (20, 3.0), (30, 10.0)):
        if step > 10:
            line.pause()
            now[0] += evaluation
            line.begin()
        now[0] += 10.0
        line.advance(step, 10, 0.5)
    # One second per step; the first evaluation compiles, the second took 10 s for 30 s of steps.
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.endswith("10 images/s, 1m10s left, about 2m40s for all stages")
