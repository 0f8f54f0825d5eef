"""Reading what ptxas, cuobjdump and the PTX say: on texts with the cases that no kernel here provokes."""

from __future__ import annotations

from collections import Counter

import pytest
from cubin import Resources, read_ptx, read_report, read_sass

REPORT = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'first_kernel' for 'sm_80'
ptxas info    : Function properties for first_kernel
    32 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 18 registers, used 1 barriers, 32 bytes cumulative stack size, 256 bytes smem, 400 bytes cmem[0]
ptxas info    : Function properties for helper
    8 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads
ptxas info    : Compiling entry function 'second_kernel' for 'sm_80'
ptxas info    : Function properties for second_kernel
    1184 bytes stack frame, 2996 bytes spill stores, 2712 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 1184 bytes cumulative stack size
ptxas info    : Compile time = 211.785 ms
"""


def test_a_report_is_read_kernel_by_kernel_with_the_spills_of_what_it_calls():
    assert read_report(REPORT) == {
        "first_kernel": Resources(registers=18, stack=32, spill_stores=12, spill_loads=16, static_shared=256),
        "second_kernel": Resources(registers=255, stack=1184, spill_stores=2996, spill_loads=2712, static_shared=0),
    }
    assert read_report(REPORT.replace("ptxas info", "ptxas-blackwell info")) == read_report(REPORT)
    assert read_report("ptxas info    : 0 bytes gmem\n") == {}


@pytest.mark.parametrize("word", ["spill stores", "registers", "Function properties"])
def test_what_a_report_does_not_say_is_not_taken_for_none(word):
    with pytest.raises(ValueError, match="not understood"):
        read_report(REPORT.replace(word, "something new"))


SASS = """\
\t\tFunction : first_kernel
        /*1900*/                   UTCHMMA gdesc[UR4], gdesc[UR6], tmem[UR8], tmem[UR26], idesc[UR27], !UPT ;
        /*1910*/              @!P0 DMMA.8x8x4 R4, R2, R8, R4 ;                   /* 0x000000040802723f */
        /*1920*/              @UP1 HGMMA.64x64x8.F32.TF32 R24, gdesc[UR8], R24 ;
        /*1930*/                   BRA 0x200 ; // no HMMA here
\t\tFunction : second_kernel
        /*0010*/                   FFMA R1, R2, R3, R4 ;
        /*10020*/                  DMMA.8x8x4 R4, R2, R8, R4 ;
        /*10030*/                  DMMA.8x8x4 R4, R2, R8, R4 ;
\t\tFunction : third_kernel
"""


def test_tensor_core_instructions_are_counted_by_function():
    assert read_sass(SASS) == {
        "first_kernel": Counter({"UTCHMMA": 1, "DMMA.8x8x4": 1, "HGMMA.64x64x8.F32.TF32": 1}),
        "second_kernel": Counter({"DMMA.8x8x4": 2}),
        "third_kernel": Counter(),
    }


def test_ptx_names_are_shortened_to_what_tells_them_apart():
    ptx = """
        mma.sync.aligned.m16n8k16.row.col.f64.f64.f64.f64 {%fd1}, ...
        mma.sync.aligned.m16n8k16.row.col.f64.f64.f64.f64 {%fd9}, ...
        wgmma.fence.sync.aligned;
        wgmma.mma_async.sync.aligned.m64n64k8.f32.tf32.tf32 {%f1}, ...
        @%p1 tcgen05.mma.cta_group::1.kind::tf32 [ %r1 + 0 ], ...
        tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r1], 64;
        fma.rn.f32 %f1, %f2, %f3, %f4;
    """
    assert read_ptx(ptx) == (
        "mma.m16n8k16.f64.f64.f64.f64",
        "tcgen05.mma.cta_group::1.kind::tf32",
        "wgmma.mma_async.m64n64k8.f32.tf32.tf32",
    )
