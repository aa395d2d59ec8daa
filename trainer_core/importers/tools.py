"""The tools whose configs we read, in the order in which a file is tried. A new tool is one file and one row."""

from __future__ import annotations

from collections.abc import Mapping

from trainer_core.importers import ai_toolkit, diffusion_pipe, kohya, onetrainer, simpletuner
from trainer_core.importers.source import Tool

TOOLS: Mapping[str, Tool] = {
    tool.name: tool for tool in (ai_toolkit.TOOL, diffusion_pipe.TOOL, onetrainer.TOOL, simpletuner.TOOL, kohya.TOOL)
}
