"""Which instruction sets `make test-cpus` runs on which machine."""

from __future__ import annotations

import pytest

from tests.cpus import cpu_flags, instruction_sets

EPYC = "sse4_1 sse4_2 avx2 fma"
SKYLAKE = f"{EPYC} avx512f avx512bw avx512dq avx512vl"


@pytest.mark.parametrize(
    ("cpuinfo", "present", "lacking"),
    [
        (f"processor\t: 0\nflags\t\t: {EPYC}\n", ["default", "avx2"], ["avx512"]),
        (f"flags : {SKYLAKE}", ["default", "avx2", "avx512"], []),
        (f"flags : {SKYLAKE} amx_tile avx512_bf16", ["default", "avx2", "avx512", "native"], []),
        ("Features\t: fp asimd sve bf16\n", ["native"], ["default", "avx2", "avx512"]),
    ],
    ids=["avx2", "avx512", "amx", "aarch64"],
)
def test_a_machine_runs_the_sets_that_it_has_and_its_own_last(
    cpuinfo: str, present: list[str], lacking: list[str]
) -> None:
    runs, skips = instruction_sets(cpu_flags(cpuinfo))
    assert [each.name for each in runs] == present
    assert [each.name for each in skips] == lacking
