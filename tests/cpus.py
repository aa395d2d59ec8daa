"""Run the numeric tests with the instruction sets of other CPUs: `make test-cpus`.

Each set runs in a process of its own, since torch, oneDNN and MKL choose their kernels when they are loaded. A set that
the machine lacks is skipped, and said to be. What a variable limits is not the other CPU itself: its caches and its
number of cores stay this machine's.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class InstructionSet:
    """Kernels that libraries may choose."""

    name: str
    needs: frozenset[str]
    """Flags of /proc/cpuinfo."""
    variables: Mapping[str, str]


def x86(name: str, needs: str, onednn: str, mkl: str) -> InstructionSet:
    """Return an instruction set of x86-64, with the name that each library has for it."""
    names = {"ATEN_CPU_CAPABILITY": name, "ONEDNN_MAX_CPU_ISA": onednn, "MKL_ENABLE_INSTRUCTIONS": mkl}
    return InstructionSet(name, frozenset(needs.split()), names)


X86 = (
    x86("default", "sse4_1 sse4_2", "SSE41", "SSE4_2"),
    x86("avx2", "avx2 fma", "AVX2", "AVX2"),
    x86("avx512", "avx512f avx512bw avx512dq avx512vl", "AVX512_CORE", "AVX512"),
)
BEYOND = frozenset({"avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile"})
"""Flags of sets that a CPU has beyond the last of `X86`: libraries use them where nothing limits them."""
NATIVE = InstructionSet("native", frozenset(), {})


def cpu_flags(cpuinfo: str) -> frozenset[str]:
    """Return the flags of the first CPU: "flags" on x86-64, "Features" on aarch64."""
    for line in cpuinfo.splitlines():
        name, _, flags = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(flags.split())
    return frozenset()


def instruction_sets(flags: frozenset[str]) -> tuple[tuple[InstructionSet, ...], tuple[InstructionSet, ...]]:
    """Return the sets to run and the sets that a machine with these flags lacks; the hardware's own comes last."""
    present = tuple(each for each in X86 if each.needs <= flags)
    lacking = tuple(each for each in X86 if not each.needs <= flags) if present else X86
    own = not present or bool(present[-1] is X86[-1] and BEYOND & flags)
    return (*present, NATIVE) if own else present, lacking


def main(arguments: Sequence[str]) -> int:
    """Run the tests once a set, and say what each gave; the arguments go to pytest."""
    flags = cpu_flags(Path("/proc/cpuinfo").read_text())
    present, lacking = instruction_sets(flags)
    results: list[str] = []
    failed = 0
    for each in present:
        how = "this machine's own" if each is present[-1] else "limited by variables"
        variables = " ".join(f"{key}={value}" for key, value in each.variables.items())
        print(f"== {each.name}: {how} {variables}", flush=True)
        code = subprocess.run(
            [sys.executable, "-m", "pytest", "-m", "numeric and not gpu and not campaign", *arguments],
            cwd=ROOT,
            env=os.environ | each.variables,
            check=False,
        ).returncode
        failed += code != 0
        results.append(f"{each.name} ({how}): {'passed' if code == 0 else f'pytest ended with {code}'}")
    results += [f"{each.name}: skipped, this machine lacks {', '.join(sorted(each.needs - flags))}" for each in lacking]
    print("\n".join(["== numeric tests by instruction set", *results]))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
