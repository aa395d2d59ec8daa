from __future__ import annotations

import subprocess
import sys

HEAVY = {"torch", "diffusers", "transformers", "pandas", "pyarrow", "numpy", "PIL", "dagster"}


def test_loading_a_project_imports_nothing_heavy() -> None:
    code = (
        "import sys; import trainer_core.config.load, trainer_core.config.rules, trainer_core.config.reads, "
        "trainer_core.config.schema; print(' '.join(sys.modules))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert HEAVY & set(loaded) == set()
