"""Kernels and their bytes, read from the text of a compiled program."""

from benchmarks.gpu_kernels import kernels

HLO = """HloModule jit_step, is_scheduled=true

%fused_add (param_0: bf16[8,4]) -> bf16[8,4] {
  %param_0 = bf16[8,4]{1,0} parameter(0)
  ROOT %add.1 = bf16[8,4]{1,0} add(%param_0, %param_0)
}

ENTRY %main.1 (x: bf16[8,4], w: bf16[4,6]) -> f32[8,6] {
  %x = bf16[8,4]{1,0} parameter(0)
  %w = bf16[4,6]{1,0} parameter(1)
  %loop_add_fusion = bf16[8,4]{1,0} fusion(%x), kind=kLoop, calls=%fused_add, metadata={op_name="jit(step)/add"}
  %gemm = (bf16[8,6]{1,0}, s8[16]{0}) custom-call(%loop_add_fusion, %w), custom_call_target="__cublas$lt$matmul"
  %y = bf16[8,6]{1,0} get-tuple-element(%gemm), index=0
  ROOT %sum = (pred[], f32[8,6]{1,0}) fusion(%y), kind=kInput, calls=%fused_add
}
"""  # noqa: E501


def test_kernels_move_their_operands_and_results():
    add, product, total = kernels(HLO)
    assert (add.kind, add.num_bytes, add.op_name) == ("kLoop", 2 * 64, "jit(step)/add")
    assert (product.kind, product.num_bytes) == ("product", 64 + 48 + 96 + 16)
    assert product.operands == ("bf16[8,4]{1,0}", "bf16[4,6]{1,0}")
    assert (total.kind, total.num_bytes) == ("kInput", 96 + 1 + 192)
