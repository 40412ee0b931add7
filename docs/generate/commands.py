"""The page of all commands: what `kd-jax COMMAND --help` prints."""

import contextlib
import io
import os

from kd_jax import commands


def page() -> str:
    """Returns the page, with one section per command."""
    parts = [
        "# Commands",
        "Each section is what `kd-jax COMMAND --help` prints.",
        f"```text\n{_printed()}\n```",
    ]
    for name in commands.names():
        text = _printed(name)
        if name == "train":  # its keys have pages of their own
            text = text.partition("\nkeys of a config")[0].rstrip()
        parts += [f"## kd-jax {name}", f"```text\n{text}\n```"]
        if name == "train":
            parts.append("The keys of a config are [the options](options/config.md).")
    return "\n\n".join(parts)


def _printed(*words: str) -> str:
    """Returns what a command prints as its help, in lines of 88 characters."""
    width, os.environ["COLUMNS"] = os.environ.get("COLUMNS"), "88"
    try:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            commands.main([*words, "--help"])
    finally:
        del os.environ["COLUMNS"]
        if width is not None:
            os.environ["COLUMNS"] = width
    return out.getvalue().rstrip()
