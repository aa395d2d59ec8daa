"""The `flags` and `Features` lines of `/proc/cpuinfo`, shortened, as Linux writes them for these processors."""

import pytest

from trainer_core.hardware.detect import parse_cpu_flags, select_profile
from trainer_core.hardware.profiles import Machine

SAPPHIRE_RAPIDS = """\
processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8481C
flags\t\t: fpu sse4_2 avx avx2 avx512f avx512_bf16 amx_bf16 amx_tile amx_int8
bugs\t\t: spectre_v1
vmx flags\t: vnmi
"""
MILAN = "processor\t: 0\nmodel name\t: AMD EPYC 7B13\nflags\t\t: fpu sse4_2 avx avx2 fma sha_ni\n"
NEOVERSE_V2 = """\
processor\t: 0
BogoMIPS\t: 2000.00
Features\t: fp asimd aes sha2 crc32 atomics fphp asimdhp asimddp sve sve2 svei8mm svebf16 i8mm bf16
CPU implementer\t: 0x41
CPU part\t: 0xd4f
"""
CORTEX_A72 = "processor\t: 0\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU part\t: 0xd08\n"


def machine(cpuinfo: str) -> Machine:
    return Machine(None, None, None, parse_cpu_flags(cpuinfo), cores=8, memory_mib=32_000)


def test_flags_of_x86_and_features_of_arm_are_read() -> None:
    assert {"avx2", "avx512_bf16", "amx_bf16"} <= parse_cpu_flags(SAPPHIRE_RAPIDS)
    assert {"asimd", "sve", "i8mm", "bf16"} <= parse_cpu_flags(NEOVERSE_V2)
    assert "vnmi" not in parse_cpu_flags(SAPPHIRE_RAPIDS)


def test_cores_that_differ_count_for_what_all_of_them_have() -> None:
    assert "bf16" not in parse_cpu_flags(NEOVERSE_V2 + CORTEX_A72)
    assert "asimd" in parse_cpu_flags(NEOVERSE_V2 + CORTEX_A72)


def test_a_text_without_such_lines_has_no_flags() -> None:
    assert parse_cpu_flags("") == parse_cpu_flags("processor\t: 0\n") == frozenset()


@pytest.mark.parametrize(
    ("cpuinfo", "profile"),
    [(SAPPHIRE_RAPIDS, "cpu"), (MILAN, "cpu_fp32"), (NEOVERSE_V2, "cpu_arm"), (CORTEX_A72, "cpu_fp32")],
)
def test_the_instruction_sets_choose_the_profile_of_a_cpu(cpuinfo: str, profile: str) -> None:
    assert select_profile("auto", machine(cpuinfo)).name == profile
