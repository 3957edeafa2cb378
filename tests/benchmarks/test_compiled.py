"""Results, padding, copies and collectives of a program as a TPU's compiler writes it, in a few lines."""

from benchmarks import compiled

HLO = """\
HloModule jit_step, is_scheduled=true

%fused_computation (param_0: f32[14,48]) -> f32[14,48] {
  %param_0 = f32[14,48]{1,0:T(8,128)} parameter(0)
  %all-reduce.9 = f32[14,48]{1,0:T(8,128)} all-reduce(%param_0), channel_id=1, to_apply=%sum
  ROOT %copy.9 = f32[14,48]{1,0:T(8,128)} copy(%all-reduce.9)
}

%sum (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %add = f32[] add(%x, %y)
}

ENTRY %main (a: bf16[16,14,48], b: f32[8,128]) -> f32[14,48] {
  %a = bf16[16,14,48]{2,1,0:T(8,128)(2,1)} parameter(0)
  %b = f32[8,128]{1,0:T(8,128)} parameter(1)
  %copy.1 = bf16[16,14,48]{2,1,0:T(8,128)(2,1)} copy(%a), metadata={op_name="jit(step)/transpose"}
  %gather = (f32[1,128]{1,0}, f32[8,128]{1,0}) all-gather-start(%b), dimensions={0}, metadata={op_name="jit(step)/head"}
  %again = f32[14,48]{1,0:T(8,128)} all-reduce(%fusion.1), channel_id=1, to_apply=%sum
  %gathered = f32[8,128]{1,0} all-gather-done(%gather)
  %all-reduce.1 = (f32[384]{0}, bf16[2,3]{1,0}) all-reduce(%b, %b), channel_id=2, to_apply=%sum
  %permute = (f32[4]{0}, f32[4]{0}, u32[], u32[]) collective-permute-start(%b)
  ROOT %fusion = f32[14,48]{1,0:T(8,128)} fusion(%copy.1), kind=kLoop, calls=%fused_computation
}
"""


def test_results_are_those_outside_of_fusions_with_the_padding_of_tiles():
    found = {x.operation: x for x in compiled.results(HLO)}
    assert set(found) == {
        "copy",
        "all-gather-start",
        "all-gather-done",
        "all-reduce",
        "collective-permute-start",
        "fusion",
    }
    copy = found["copy"]
    assert (copy.type, copy.source) == ("bf16[16,14,48]", "jit(step)/transpose")
    assert (copy.raw, copy.padded) == (2 * 16 * 14 * 48, 2 * 16 * 16 * 128)
    assert found["fusion"].padded == 4 * 16 * 128


def test_copies_are_those_of_the_size_that_is_asked_for():
    written = compiled.results(HLO)
    assert [x.operation for x in compiled.copies(written, least=1000)] == ["copy"]
    assert compiled.copies(written) == []


def test_collectives_count_once_with_the_bytes_of_their_results():
    found = compiled.collectives(HLO)
    assert [(x.kind, x.types, x.bytes) for x in found] == [
        ("all-reduce", ("f32[14,48]",), 4 * 14 * 48),
        ("all-gather", ("f32[8,128]",), 4 * 8 * 128),
        ("all-reduce", ("f32[384]", "bf16[2,3]"), 4 * 384 + 2 * 6),
        ("collective-permute", ("f32[4]",), 16),
    ]
    assert compiled.by_kind(found) == {
        "all-reduce": (2, 2688 + 1548),
        "all-gather": (1, 4096),
        "collective-permute": (1, 16),
    }
