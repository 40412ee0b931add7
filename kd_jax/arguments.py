"""The argument of a config file: `--config=FILE.py:student=vgg11,resolution=32,smoke`."""

import difflib
from types import SimpleNamespace
from typing import Any

from kd_jax.errors import UsageError


def parse_argument(argument: str | None, **defaults: Any) -> SimpleNamespace:
    """Reads a config's argument.

    Args:
        argument: `key=value` pairs joined by commas; a key alone is True.
        **defaults: the known keys; each value must be of its default's type. `smoke`, which makes
            a run as short as possible, is always known.

    Raises:
        UsageError: for an unknown key, or a value that is not of the key's type.
    """
    known = {"smoke": False, **defaults}
    chosen = dict(known)
    for part in filter(None, (argument or "").split(",")):
        key, equals, text = part.partition("=")
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise UsageError(
                f"config argument {key!r} is unknown{hint}: choose among {', '.join(known)}."
            )
        chosen[key] = _value(text, type(known[key]), key) if equals else _value("true", bool, key)
        if type(chosen[key]) is not type(known[key]):
            raise UsageError(f"config argument {key!r} needs a value: write {key}=...")
    return SimpleNamespace(**chosen)


def _value(text: str, kind: type, key: str) -> Any:
    try:
        return {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError) as error:
        raise UsageError(f"config argument {key}={text!r} must be {kind.__name__}.") from error
