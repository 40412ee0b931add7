import importlib.util
import json

import jax
import jax.numpy as jnp
import pytest

from experiments.benchmarks import ahead_of_time, hlo, operations, stacks

LIBTPU = importlib.util.find_spec("libtpu") is not None
needs_libtpu = pytest.mark.skipif(not LIBTPU, reason="libtpu is not installed")
CONFIG = "horkd/cifar100:teacher=resnet8x4,student=resnet8,dtype=bfloat16"

TEXT = """HloModule jit_run, is_scheduled=true, input_output_alias={ {0}: (0, {}, may-alias) }, \
entry_computation_layout={(f32[4]{0})->f32[4]{0}}

FileNames
1 "/src/kd_jax/losses/relations.py"
2 "/src/run.py"

FunctionNames
1 "rkd_distance"
2 "main"

FileLocations
1 {file_name_id=2 function_name_id=2 line=1}
2 {file_name_id=1 function_name_id=1 line=9}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}

%fused (p: bf16[8,4]) -> f32[8,8] {
  %p = bf16[8,4]{1,0} parameter(0)
  ROOT %dot.1 = f32[8,8]{1,0} dot(%p, %p), metadata={op_name="jit(run)/dot" stack_frame_id=2}
}

%body (arg: (s32[], f32[8,8])) -> (s32[], f32[8,8]) {
  %arg = (s32[], f32[8,8]{1,0}) parameter(0)
  %x = f32[8,8]{1,0} get-tuple-element(%arg), index=1
  %all-reduce.1 = f32[8,8]{1,0} all-reduce(%x), channel_id=3, backend_config={}
  %copy.2 = f32[8,8]{1,0} copy(%all-reduce.1), backend_config={"estimated_cycles":"10"}
}

%cond (arg: (s32[], f32[8,8])) -> pred[] {
  %c = s32[]{:T(128)} constant(5)
}

ENTRY %main (a: bf16[8,4]) -> f32[8,8] {
  %a = bf16[8,4]{1,0} parameter(0)
  %f = f32[8,8]{1,0} fusion(%a), kind=kOutput, calls=%fused, \
backend_config={"estimated_cycles":"100"}
  %w = (s32[], f32[8,8]{1,0}) while(%t), condition=%cond, body=%body
  %u = (s32[], f32[8,8]{1,0}) while(%t), condition=%missing, body=%body
}
"""


def test_reads_runs_cycles_collectives_products_and_origins():
    program = hlo.read(TEXT, iterations=2)
    by_name = {each.name: each for each in program.instructions}
    assert by_name["copy.2"].times == 7  # 5 in the loop with a constant, 2 in the other
    assert by_name["copy.2"].cycles == 70
    assert by_name["f"].frames[-1] == stacks.Frame(
        "/src/kd_jax/losses/relations.py", "rkd_distance"
    )
    assert ahead_of_time.scope(by_name["f"]) == "loss rkd_distance"
    assert program.products == {hlo.Product("dot", ("bf16", "bf16"), "f32"): 1}
    (collective,) = program.collectives()
    assert (collective.times, collective.bytes) == (7, 256)
    assert ahead_of_time.scope(collective) == "collectives"
    assert program.aliased == 1


@pytest.mark.parametrize(
    ("scope", "says"),
    [
        ("jit(run)/while/body/jvp(student)/Conv_0/conv", "student forward"),
        ("jit(run)/transpose(jvp(student))/Conv_0/conv", "student backward"),
        ("jit(run)/teacher/Dense_0/dot", "teacher forward"),
        ("jit(run)/add", "other"),
    ],
)
def test_scopes_are_roles_and_directions(scope, says):
    instruction = hlo.Instruction("f", "f32[]", "fusion", 1, 1.0, scope, (), "", "")
    assert ahead_of_time.scope(instruction) == says


@pytest.mark.parametrize(
    ("type", "bytes"),
    [("f32[2,3]{1,0}", 24), ("(bf16[4], s32[])", 12), ("pred[5]", 5), ("token[]", 0)],
)
def test_bytes_of_types(type, bytes):
    assert hlo.type_bytes(type) == bytes


def test_counts_operations_of_products_convolutions_and_loops():
    def program(x, kernel, y):
        y = jax.lax.fori_loop(0, 3, lambda _, y: y @ y, y)
        dims = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", None, None, dims), y + 1.0

    x, kernel, y = jnp.ones((2, 5, 5, 3)), jnp.ones((3, 3, 3, 7)), jnp.ones((4, 4))
    found = operations.count(jax.make_jaxpr(program)(x, kernel, y).jaxpr)
    assert found.products == 2 * (2 * 3 * 3 * 7) * (3 * 3 * 3) + 3 * 2 * 4**3
    assert 16 <= found.others <= 30  # y + 1, and the counter of the loop


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "Name either --config or --loss"),
        (["--loss=rkd_distance", "--config=quickstart"], "Name either --config or --loss"),
        (["--loss=rkd_distance", "--topology=v5e"], "must be CHIP:SHAPE, such as v5e:2x2"),
        (["--loss=rkd_distance", "--topology=v9:1x1"], "--topology = 'v9' is unknown"),
        (["--loss=rkd_distance", "--sizes=9xx"], "must be whole numbers joined by x"),
        (["--platform=cuda", "--target=t4", "--loss=rkd_distance"], "--target = 't4' is unknown"),
    ],
)
def test_wrong_options_are_one_sentence(capsys, options, says):
    assert ahead_of_time.main(options) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


@pytest.mark.slow
@needs_libtpu
@pytest.mark.parametrize("topology", ["v5e:1x1", "v5e:2x2"])
def test_a_step_of_horkd_compiles_for_tpus(topology, tmp_path, capsys):
    out = tmp_path / "found.json"
    options = [f"--config={CONFIG}", f"--topology={topology}", f"--out={out}"]
    assert ahead_of_time.main([*options, "--images=50000x32x32", "--batch_size=64"]) == 0
    assert "MiB" in capsys.readouterr().out
    found = json.loads(out.read_text())
    assert found["estimated_ms"] > 0
    assert found["collectives_in_loops"] == 0
    set_bytes = 50_000 * 32 * 32 * 3
    assert found["temporary_bytes"] < set_bytes  # no copy of the images
    convolutions = [name for name in found["products"] if "conv_general_dilated" in name]
    assert convolutions
    assert all("bf16 x bf16" in name for name in convolutions)


def test_every_loss_lowers_for_tpus_and_gpus():
    from experiments.benchmarks.loss_cases import CASES, SIZES
    from kd_jax.core.devices import data_mesh

    tiny = {"rows": (8, 6), "angles": (8, 6), "logits": (8, 5), "maps": (4, 3, 5, 7)}
    tiny["memory"] = (4, 8, 20, 6)
    assert set(tiny) == set(SIZES)
    for name, case in CASES.items():
        subject = ahead_of_time.ahead_programs.loss(name, tiny[case.sizes[0]], data_mesh(1))
        for platform in ("tpu", "cuda"):
            subject.function.trace(*subject.arguments).lower(lowering_platforms=(platform,))
