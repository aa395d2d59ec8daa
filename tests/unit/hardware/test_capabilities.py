"""What each generation of GPUs can do, and which build of torch it gets: tables, checked as tables."""

from __future__ import annotations

import subprocess
import sys

import pytest

from trainer_core.hardware.capabilities import FEATURES, Platform, build_problem, capabilities, has
from trainer_core.hardware.torch_build import choose_build, parse_driver, parse_query

EVERYTHING = frozenset(feature.package for feature in FEATURES if feature.package)
CHIPS = [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (10, 3), (11, 0), (12, 0), (12, 1)]
EXPECTED = {
    "bf16": [chip for chip in CHIPS if chip != (7, 5)],
    "tf32": [chip for chip in CHIPS if chip != (7, 5)],
    "int8_matmul": CHIPS,
    "fp8_matmul": CHIPS[3:],
    "fp8_rowwise": CHIPS[4:],
    "mxfp8": CHIPS[5:],
    "flash_attention": CHIPS[1:],
    "cudnn_attention": CHIPS[1:],
    "flash_attention_2": CHIPS[1:],
    "flash_attention_3": [(9, 0)],
    "compile": CHIPS,
    "nf4": CHIPS,
    "optimizer_8bit": CHIPS,
    "direct_loading": CHIPS,
}


def platform(chip: tuple[int, int], cuda: tuple[int, ...] = (13, 0), driver: tuple[int, ...] = (580, 95)) -> Platform:
    return Platform(chip, driver, cuda, EVERYTHING)


@pytest.mark.parametrize("feature", [feature.name for feature in FEATURES])
def test_each_feature_is_there_from_turing_to_blackwell_as_the_table_says(feature: str) -> None:
    assert [chip for chip in CHIPS if has(platform(chip), feature)] == EXPECTED[feature]


def test_every_no_says_why_and_what_is_done_instead() -> None:
    for chip in CHIPS:
        for answer in capabilities(Platform(chip, (535, 1), (12, 6))):
            assert answer.there or len(answer.reason) > 10
    (fp8,) = [answer for answer in capabilities(platform((8, 6))) if answer.feature.name == "fp8_matmul"]
    assert str(fp8) == (
        "fp8 matrices, one scale a tensor: no, needs compute capability 8.9, this is 8.6; bf16 matrices instead"
    )
    (flash,) = [
        answer
        for answer in capabilities(Platform((9, 0), (580,), (13, 0)))
        if answer.feature.name == "flash_attention_3"
    ]
    assert "flash-attn-3 is not installed" in flash.reason


@pytest.mark.parametrize(
    ("chip", "cuda", "driver", "problem"),
    [
        ((8, 9), (13, 0), (580, 65, 6), ""),
        ((8, 9), (13, 0), (575, 57), "needs driver 580"),
        ((8, 9), (12, 6), (535, 1), ""),
        ((8, 9), (12, 6), (470, 1), "needs driver 525.60.13"),
        ((6, 1), (13, 0), (580,), "no code for compute capability 6.1"),
        ((6, 1), (12, 6), (580,), ""),
        ((12, 0), (12, 6), (580,), "no code for compute capability 12.0"),
        ((12, 1), (12, 9), (580,), ""),
        ((11, 0), (12, 9), (580,), "no code for compute capability 11.0"),
        ((11, 0), (13, 0), (580,), ""),
        ((9, 0), (), (580,), "without CUDA"),
    ],
)
def test_a_build_of_torch_fits_the_driver_and_the_gpu_or_says_why_not(
    chip: tuple[int, int], cuda: tuple[int, ...], driver: tuple[int, ...], problem: str
) -> None:
    found = build_problem(Platform(chip, driver, cuda))
    assert bool(found) == bool(problem) and problem in found


@pytest.mark.parametrize(
    ("driver", "capability", "local"),
    [
        (None, None, "cpu"),
        ((580, 65, 6), (8, 9), ""),
        ((580, 65, 6), None, ""),
        ((600, 1), (12, 1), ""),
        ((580, 65, 6), (6, 1), "cu126"),
        ((575, 57, 8), (12, 0), "cu129"),
        ((550, 54), (9, 0), "cu126"),
        ((525, 60, 13), None, "cu126"),
        ((470, 82), (8, 6), "cpu"),
    ],
)
def test_install_takes_the_build_that_the_driver_runs(
    driver: tuple[int, ...] | None, capability: tuple[int, int] | None, local: str
) -> None:
    build = choose_build(driver, capability)
    assert build.local == local and build.reason
    if local not in ("", "cpu"):
        cuda = (12, int(local[-1]))
        assert build_problem(Platform(capability or (8, 0), driver or (), cuda)) == ""


def test_driver_and_gpus_are_read_from_what_the_system_says() -> None:
    old = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\nGCC version: 12\n"
    new = "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  580.95.05  Release Build  (dvs)\n"
    assert parse_driver(old) == (535, 183, 1)
    assert parse_driver(new) == (580, 95, 5)
    assert parse_query("580.95.05, 9.0\n580.95.05, 7.5\n") == ((580, 95, 5), (7, 5))
    assert parse_query("NVIDIA-SMI has failed\n") == (None, None)


def test_the_build_is_chosen_by_a_python_without_packages() -> None:
    command = [sys.executable, "-S", "-m", "trainer_core.hardware.torch_build", "2.13.0"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert answer.stdout.startswith("torch==2.13.0") and "PyTorch: " in answer.stderr
