"""Collectives of GPU and TPU programs, read from their text.

test_sharded_step.py has programs of CPUs, and tests/tpu real programs of a TPU.
"""

import pytest

from benchmarks.collectives import collectives, sent_bytes, total_bytes

GPU = """HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %c = f32[] add(%a, %b)
}

%body (arg: (s32[], bf16[4,6])) -> (s32[], bf16[4,6]) {
  %arg = (s32[], bf16[4,6]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%arg), index=0
  %w = bf16[4,6]{1,0} get-tuple-element(%arg), index=1
  %one = s32[] constant(1)
  %gather = (bf16[4,6]{1,0}, bf16[16,6]{1,0}) all-gather-start(%w), replica_groups=mesh['axis_0'=4,'axis_1'=2], device_ids=([2,4]T(1,0)) {'axis_0'}, dimensions={0}
  %y = (bf16[8,6]{1,0}, s8[16]{0}) custom-call(%w), custom_call_target="__cublas$lt$matmul"
  %gathered = bf16[16,6]{1,0} all-gather-done(%gather)
  %sum = ((f32[8]{0}), f32[2]{0}) reduce-scatter-start(%w), replica_groups=[2,4]<=[8], dimensions={0}, to_apply=%add
  %summed = f32[2]{0} reduce-scatter-done(%sum)
  %next = s32[] add(%i, %one)
  ROOT %out = (s32[], bf16[4,6]{1,0}) tuple(%next, %w)
}

%condition (arg.1: (s32[], bf16[4,6])) -> pred[] {
  %arg.1 = (s32[], bf16[4,6]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%arg.1), index=0
  %n = s32[] constant(28)
  ROOT %lt = pred[] compare(%i.1, %n), direction=LT
}

ENTRY %main (x: (s32[], bf16[4,6])) -> f32[10] {
  %x = (s32[], bf16[4,6]{1,0}) parameter(0)
  %loop = (s32[], bf16[4,6]{1,0}) while(%x), condition=%condition, body=%body
  ROOT %all = f32[10]{0} all-reduce(%loop), replica_groups={}, to_apply=%add
}
"""  # noqa: E501

TPU = """HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %c = f32[] add(%a, %b)
}

%start (p: bf16[8,4]) -> bf16[8,16] {
  %p = bf16[8,4]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %g = bf16[8,16]{1,0:T(8,128)(2,1)S(1)} all-gather(%p), channel_id=3, replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={1}, frontend_attributes={chain_id="10"}
}

%end (p.1: bf16[8,4]) -> bf16[8,16] {
  %p.1 = bf16[8,4]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %g.1 = bf16[8,16]{1,0:T(8,128)(2,1)S(1)} all-gather(%p.1), channel_id=3, replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={1}, frontend_attributes={chain_id="10"}
}

%all-reduce-scatter.2 (input: bf16[16,6]) -> bf16[16,2] {
  %input = bf16[16,6]{1,0} parameter(0)
  %r = bf16[16,8]{1,0} all-reduce(%input), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  ROOT %s = bf16[16,2]{1,0} dynamic-slice(%r), dynamic_slice_sizes={16,2}
}

%body (arg: (u32[], bf16[3,5])) -> (u32[], bf16[3,5]) {
  %arg = (u32[]{:T(128)}, bf16[3,5]{1,0}) parameter(0)
  %i = u32[]{:T(128)} get-tuple-element(%arg), index=0
  %w = bf16[3,5]{1,0} get-tuple-element(%arg), index=1
  %two = u32[]{:T(128)} constant(2)
  %sent = (bf16[3,5]{1,0}, bf16[3,5]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%w), source_target_pairs={{0,1},{1,2},{2,3},{3,0}}
  %y = bf16[8,8]{1,0} fusion(%w), kind=kOutput, calls=%add
  %received = bf16[3,5]{1,0} collective-permute-done(%sent)
  %next = u32[]{:T(128)} add(%i, %two)
  %copy = u32[]{:T(128)} copy(%next)
  ROOT %out = (u32[]{:T(128)}, bf16[3,5]{1,0}) tuple(%copy, %received)
}

%condition (arg.1: (u32[], bf16[3,5])) -> pred[] {
  %arg.1 = (u32[]{:T(128)}, bf16[3,5]{1,0}) parameter(0)
  %i.1 = u32[]{:T(128)} get-tuple-element(%arg.1), index=0
  %n = u32[]{:T(128)} constant(4)
  ROOT %lt = pred[]{:T(512)} compare(%i.1, %n), direction=LT
}

ENTRY %main (x: bf16[8,4]) -> bf16[16,2] {
  %x = bf16[8,4]{1,0} parameter(0)
  %a = bf16[8,16]{1,0} fusion(%x), kind=kCustom, calls=%start
  %b = bf16[8,16]{1,0} fusion(%x), kind=kCustom, calls=%end
  %loop = (u32[], bf16[3,5]{1,0}) while(%x), condition=%condition, body=%body
  ROOT %c = bf16[16,2]{1,0} fusion(%b), kind=kCustom, calls=%all-reduce-scatter.2
}
"""  # noqa: E501


def test_a_program_of_a_gpu():
    gather, scatter, reduction = collectives(GPU)
    assert (gather.kind, gather.num_bytes, gather.times) == ("all-gather", 2 * 16 * 6, 28)
    assert gather.overlaps and not scatter.overlaps  # a product is between its start and end
    # Groups along the first axis; devices are counted along the second.
    assert gather.groups == ((0, 1, 2, 3), (4, 5, 6, 7))
    assert (scatter.kind, scatter.num_bytes, scatter.times) == ("reduce-scatter", 8, 28)
    assert scatter.groups == ((0, 1, 2, 3), (4, 5, 6, 7))
    assert (reduction.kind, reduction.times, reduction.groups) == ("all-reduce", 1, ())


def test_a_program_of_a_tpu():
    moved = total_bytes(collectives(TPU))
    assert moved == {
        "all-gather": 2 * 8 * 16,  # counted once, though several fusions have a part of it
        "reduce-scatter": 2 * 16 * 2,
        "collective-permute": 2 * 2 * 3 * 5,  # the counter goes to 4 in steps of 2
    }
    overlapped = {c.kind for c in collectives(TPU) if c.overlaps}
    assert overlapped == {"all-gather", "collective-permute"}


@pytest.mark.parametrize(
    ("name", "domain", "near", "far"),
    [
        ("all-gather", 8, 28 * 192 * 3 / 4, 0),
        ("reduce-scatter", 8, 28 * 32 * 3 / 4, 0),
        ("all-reduce", 8, 2 * 40 * 7 / 8, 0),
        # Four devices of a domain reduce together, then each a quarter with the other domain.
        ("all-reduce", 4, 2 * 40 * 3 / 4, 2 * 40 / 4 / 2),
    ],
)
def test_what_a_device_sends(name, domain, near, far):
    found = {c.kind: c for c in collectives(GPU)}
    assert sent_bytes(found[name], 8, domain) == pytest.approx((near, far))
