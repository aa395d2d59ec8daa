"""What each kind of machine does best, as rows of data. A new machine is one more row.

Figures that were measured stand in docs/performance.md; rows of machines that this trainer was not measured on follow
the makers' data sheets (FP8 from sm_89, bf16 from sm_80) and say so in `note`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

PrecisionName = Literal["fp32", "bf16", "fp16"]
Attention = Literal["sdpa", "math", "cudnn", "flash"]


@dataclass(frozen=True)
class Machine:
    """What detection found, without importing torch."""

    gpu_name: str | None
    """The first GPU that this process may use, as its driver calls it; None without a GPU."""
    compute_capability: tuple[int, int] | None
    gpu_memory_mib: int | None
    """None without a GPU, and where it shares the computer's memory."""
    cpu_flags: frozenset[str]
    """Instruction sets of all cores by Linux' names: `avx512_bf16`, `amx_bf16` on x86-64; `bf16`, `i8mm`, `sve` on
    aarch64."""
    cores: int
    """Cores that this process may use."""
    memory_mib: int
    """Memory that this process may use: the cgroup's limit where there is one."""
    gpus: int = 0
    """GPUs that this process may use."""
    gpu_free_mib: int | None = None
    """What of the GPU's memory no process uses now."""
    gpu_uuid: str = ""
    driver: tuple[int, ...] = ()
    """Version of the NVIDIA driver; empty without one."""
    driver_trouble: str = ""
    """Why there is a driver, but no usable answer; empty where all is well."""

    @property
    def unified(self) -> bool:
        """Whether GPU and CPU share one memory."""
        return self.gpu_name is not None and self.gpu_memory_mib is None


@dataclass(frozen=True)
class HardwareProfile:
    """Choices for one kind of machine. A precision chosen here enters every key it affects."""

    name: str
    title: str
    device: Literal["cpu", "cuda"]
    matches: Callable[[Machine], bool]
    train_precision: PrecisionName
    encode_precision: PrecisionName
    attention: Attention
    """`math` is plain bmm-softmax-bmm, which beats SDPA for bf16 on CPUs (docs/performance.md); `sdpa` is torch's own
    choice; of the others see `kernels.ORDER`."""
    channels_last: bool
    """Memory format of convolutional encoders and denoisers."""
    encode_batch_size: int
    """Pictures given to the VAE at once; 1 on CPUs, where it is fastest and does not depend on its neighbours."""
    text_batch_size: int
    decode_threads: int
    compile: bool = False
    """Whether blocks are compiled where `hardware.compile` is auto: on no row before it was measured there. On CPUs it
    costs 200 s for 0 to 5 % (docs/performance.md)."""
    unified: bool = False
    """Whether the GPU computes in the computer's own memory, so that nothing is gained by moving things out of it."""
    note: str = ""

    @property
    def has_own_memory(self) -> bool:
        """Whether the device has memory beside the computer's."""
        return self.device == "cuda" and not self.unified


def _gpu(
    least: tuple[int, int], below: tuple[int, int] = (99, 0), memory_gib: int = 0, name: str = ""
) -> Callable[[Machine], bool]:
    """Match GPUs by what they can do: compute capability in [least, below), and at least so much memory of their own.

    A name only refines: the same name stands on laptop chips and on server boards.
    """

    def matches(machine: Machine) -> bool:
        if machine.gpu_name is None or name not in machine.gpu_name:
            return False
        enough = not memory_gib or (machine.gpu_memory_mib or 0) >= memory_gib * 1024
        return enough and least <= (machine.compute_capability or (0, 0)) < below

    return matches


def _x86_with_bf16(machine: Machine) -> bool:
    return machine.gpu_name is None and bool({"amx_bf16", "avx512_bf16"} & machine.cpu_flags)


def _arm_with_bf16(machine: Machine) -> bool:
    return machine.gpu_name is None and {"asimd", "bf16"} <= machine.cpu_flags


PROFILES: tuple[HardwareProfile, ...] = (
    HardwareProfile(
        name="rtx4090",
        title="NVIDIA GeForce RTX 4090, 24 GB, sm_89",
        device="cuda",
        matches=_gpu((8, 9), (9, 0), 22, "RTX 4090"),
        train_precision="bf16",
        encode_precision="bf16",
        attention="sdpa",
        channels_last=True,
        encode_batch_size=8,
        text_batch_size=16,
        decode_threads=8,
        note="from data sheets, not measured",
    ),
    HardwareProfile(
        name="h100",
        title="NVIDIA H100, H200 or GH200, 60 GB or more, sm_90",
        device="cuda",
        matches=_gpu((9, 0), (10, 0), 60),
        train_precision="bf16",
        encode_precision="bf16",
        attention="cudnn",
        channels_last=True,
        encode_batch_size=16,
        text_batch_size=32,
        decode_threads=16,
        note="from data sheets, not measured; cuDNN's attention is reported 1.7 to 2.3 times as fast in training",
    ),
    HardwareProfile(
        name="dgx_spark",
        title="NVIDIA DGX Spark, GB10 Grace Blackwell, 128 GB unified, sm_121",
        device="cuda",
        matches=_gpu((12, 1), (12, 2)),
        unified=True,
        train_precision="bf16",
        encode_precision="bf16",
        attention="sdpa",
        channels_last=True,
        encode_batch_size=8,
        text_batch_size=16,
        decode_threads=8,
        note="from data sheets, not measured",
    ),
    HardwareProfile(
        name="cuda",
        title="any other NVIDIA GPU with bf16 (sm_80 or newer)",
        device="cuda",
        matches=_gpu((8, 0)),
        train_precision="bf16",
        encode_precision="bf16",
        attention="sdpa",
        channels_last=True,
        encode_batch_size=4,
        text_batch_size=8,
        decode_threads=4,
        note="from data sheets, not measured",
    ),
    HardwareProfile(
        name="cuda_fp16",
        title="NVIDIA GPU before Ampere",
        device="cuda",
        matches=lambda machine: machine.gpu_name is not None,
        train_precision="fp16",
        encode_precision="fp16",
        attention="sdpa",
        channels_last=False,
        encode_batch_size=2,
        text_batch_size=4,
        decode_threads=4,
        note="from data sheets, not measured",
    ),
    HardwareProfile(
        name="cpu",
        title="CPU with bf16 instructions (AMX or AVX512-BF16)",
        device="cpu",
        matches=_x86_with_bf16,
        train_precision="bf16",
        encode_precision="bf16",
        attention="math",
        channels_last=True,
        encode_batch_size=1,
        text_batch_size=1,
        decode_threads=2,
    ),
    HardwareProfile(
        name="cpu_arm",
        title="Arm CPU with bf16 instructions (Neoverse V1 or newer, Grace)",
        device="cpu",
        matches=_arm_with_bf16,
        train_precision="bf16",
        encode_precision="bf16",
        attention="sdpa",
        channels_last=True,
        encode_batch_size=1,
        text_batch_size=1,
        decode_threads=2,
        note="from data sheets, not measured",
    ),
    HardwareProfile(
        name="cpu_fp32",
        title="CPU without bf16 instructions",
        device="cpu",
        matches=lambda machine: machine.gpu_name is None,
        train_precision="fp32",
        encode_precision="fp32",
        attention="sdpa",
        channels_last=True,
        encode_batch_size=1,
        text_batch_size=1,
        decode_threads=2,
    ),
)
"""Tried from the top; the first row that matches is taken."""


def resolve_precision(asked: str, preferred: PrecisionName, allowed: tuple[PrecisionName, ...]) -> PrecisionName:
    """Return `asked`, or for `auto` the preferred one where the model allows it and its fallback where not."""
    if asked == "auto":
        return preferred if preferred in allowed else allowed[0]
    return asked  # type: ignore[return-value]
