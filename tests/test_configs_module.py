import pytest

from kd_jax.configs import parse_argument
from kd_jax.errors import UsageError

DEFAULTS = {"student": "resnet18", "resolution": 16, "width": 1.0, "baselines": False}


def test_values_take_the_type_of_their_default():
    arg = parse_argument("student=vgg11,width=2,baselines=true,smoke", **DEFAULTS)
    assert vars(arg) == {
        "student": "vgg11",
        "resolution": 16,
        "width": 2.0,
        "baselines": True,
        "smoke": True,
    }
    assert type(arg.width) is float
    assert vars(parse_argument(None, **DEFAULTS)) == {**DEFAULTS, "smoke": False}
    assert vars(parse_argument("", **DEFAULTS)) == {**DEFAULTS, "smoke": False}


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("resoluton=8", "choose among resolution, "),
        ("resolution=low", "resolution='low' must be int"),
        ("baselines=yes", "must be bool"),
        ("student", "'student' needs a value"),
    ],
)
def test_a_bad_argument_is_named(argument, says):
    with pytest.raises(UsageError, match=says):
        parse_argument(argument, **DEFAULTS)
