"""Damages files of checkpoints, then resumes and loads. It runs in a child process of `warm`."""

import collections
import contextlib
import io
import json
import os
import pathlib
import random
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import jax
from faults.runs import (
    DIFFERENT,
    EQUAL,
    REFUSED,
    STAGES,
    TRACEBACK,
    final,
    follow,
    generator,
    numbers,
    train,
)
from faults.warm import CRASH, Ended

import kd_jax
from kd_jax import commands
from kd_jax.core.errors import UsageError
from kd_jax.core.hashing import content_hash

KINDS = ("flip", "flip", "flip", "flip", "truncate", "empty", "delete", "overwrite")


def damage(path: pathlib.Path, kind: str, random: random.Random) -> None:
    """Damages a file."""
    data = bytearray(path.read_bytes())
    place = random.randrange(len(data)) if data else 0
    if kind == "delete":
        path.unlink()
        return
    if kind == "truncate":
        del data[place:]
    elif kind == "empty":
        data.clear()
    elif data and kind == "flip":
        data[place] ^= 1 << random.randrange(8)
    elif kind == "overwrite":
        data[place : place + 16] = random.randbytes(len(data[place : place + 16]))
    path.write_bytes(data)


def files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the files of the checkpoints of both stages."""
    return sorted(path for path in folder.glob("*/checkpoints/**/*") if path.is_file())


@contextlib.contextmanager
def _captured() -> Iterator[list[str]]:
    """Yields a list that holds the text on stderr afterwards, that of C++ too."""
    texts: list[str] = []
    with tempfile.TemporaryFile() as file:
        before = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield texts
        finally:
            os.dup2(before, 2)
            os.close(before)
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))


def command(words: list[str]) -> Ended:
    """Runs a command in this process."""
    with _captured() as texts, contextlib.redirect_stdout(io.StringIO()):
        try:
            code = commands.main([str(word) for word in words])
        except BaseException:
            traceback.print_exc()
            code = CRASH
    return Ended(code, "", texts[0])


def loaded(workdir: pathlib.Path) -> list[str]:
    """Returns what `load` reads: hashes of the networks, and their descriptions."""
    found = []
    for stage in STAGES:
        for which in ("last", "best"):
            trained = kd_jax.load(workdir / stage, checkpoint=which)
            found += [content_hash(trained.variables), repr(trained.info), repr(trained.views)]
    return found


def load(workdir: pathlib.Path, expected: list[str]) -> tuple[str, str]:
    """Returns the outcome of reading all networks of a damaged run."""
    try:
        return (EQUAL if loaded(workdir) == expected else DIFFERENT), ""
    except UsageError as error:
        return (REFUSED if len(str(error).splitlines()) == 1 else TRACEBACK), str(error)
    except Exception:
        return TRACEBACK, traceback.format_exc()


def evaluation(workdir: pathlib.Path) -> list[str]:
    """Returns the words of a command that evaluates the student."""
    out = f"--out={workdir / 'evaluation.json'}"
    return ["evaluate", f"--network={workdir / 'student'}", "--source=digits", out]


def evaluate(workdir: pathlib.Path, expected: str) -> tuple[str, str]:
    """Returns the outcome of evaluating the student of a damaged run."""
    ended = command(evaluation(workdir))
    if ended.code:
        return (REFUSED if ended.refused else TRACEBACK), ended.err
    found = (workdir / "evaluation.json").read_text()
    same = found.replace(str(workdir), "") == expected
    return (EQUAL if same and not ended.traceback else DIFFERENT), ended.err


def resume(workdir: pathlib.Path, expected: list[dict[str, Any]]) -> tuple[str, str]:
    """Returns the outcome of resuming a damaged run; the remedy of an error is followed.

    Equal numbers are required after at most six remedies. A run does not read every file: damage
    that it leaves must be refused later, when the file is read.
    """
    errors: list[str] = []
    ended, outcome = command(train(workdir)), EQUAL
    while ended.refused and len(errors) < 6:
        errors.append(ended.err)
        if not follow(ended.err):
            return TRACEBACK, f"no remedy is understood: {errors}"
        outcome, ended = REFUSED, command(train(workdir))
    if ended.code or ended.traceback:
        return TRACEBACK, f"{errors} {ended.err}"
    if [{**stage, "hashes": None} for stage in numbers(workdir)] != [
        {**stage, "hashes": None} for stage in expected
    ]:
        return DIFFERENT, f"{errors} {ended.err}"
    try:
        return (outcome if final(workdir) == expected else DIFFERENT), f"{errors} {ended.err}"
    except UsageError:
        return REFUSED, ""


def attack(original: str, use: str, first: str, number: str) -> dict[str, object]:
    """Damages copies of a run and uses them.

    Args:
        original: folder of the run. It is finished for `load` and `evaluate`, and stopped in the
            second stage for `resume`.
        use: `load`, `evaluate` or `resume`.
        first: the first seed.
        number: number of seeds.

    Returns:
        Number of attacks by outcome, and descriptions of those that failed.
    """
    source = pathlib.Path(original)
    uses: dict[str, Callable[..., tuple[str, str]]] = {
        "load": load,
        "evaluate": evaluate,
        "resume": resume,
    }
    if use == "load":
        expected: object = loaded(source)
    elif use == "evaluate":
        with tempfile.TemporaryDirectory() as folder:
            workdir = pathlib.Path(folder) / "run"
            shutil.copytree(source, workdir)
            ended = command(evaluation(workdir))
            assert ended.code == 0, ended.err
            expected = (workdir / "evaluation.json").read_text().replace(str(workdir), "")
    else:
        expected = json.loads((source / "expected.json").read_text())
    outcomes: collections.Counter[str] = collections.Counter()
    failed = []
    for seed in range(int(first), int(first) + int(number)):
        random, folder = generator(seed, use), tempfile.mkdtemp()
        workdir = pathlib.Path(folder) / "run"
        shutil.copytree(source, workdir, ignore=shutil.ignore_patterns("expected.json"))
        path, kind = random.choice(files(workdir)), random.choice(KINDS)
        damage(path, kind, random)
        outcome, text = uses[use](workdir, expected)
        outcomes[outcome] += 1
        if outcome in (DIFFERENT, TRACEBACK):
            failed.append([outcome, seed, kind, str(path.relative_to(workdir)), text])
        shutil.rmtree(folder)
        if use == "resume":
            jax.clear_caches()  # each run compiles its own functions
    return {"outcomes": outcomes, "failed": failed}
