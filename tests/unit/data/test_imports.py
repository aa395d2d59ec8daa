import subprocess
import sys

import pytest

HEAVY = ("torch", "numpy", "PIL", "pandas", "pyarrow")


MODULES = (
    "build_manifest",
    "discovery.discover",
    "captions.caption_file",
    "pictures.buckets",
    "pictures.picture_info",
    "reports.dataset_findings",
    "sample_identity",
)


@pytest.mark.parametrize("module", MODULES)
def test_finding_out_that_nothing_changed_imports_nothing_heavy(module: str) -> None:
    code = f"import sys, trainer_core.data.{module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
