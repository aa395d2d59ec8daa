"""The tools whose configs we read, in the order in which a file is tried. A new tool is one package and one row."""

from __future__ import annotations

from collections.abc import Mapping

from trainer_core.importers.ai_toolkit import tool as ai_toolkit
from trainer_core.importers.core.tool_config import Tool
from trainer_core.importers.diffusion_pipe import tool as diffusion_pipe
from trainer_core.importers.kohya import tool as kohya
from trainer_core.importers.onetrainer import tool as onetrainer
from trainer_core.importers.simpletuner import tool as simpletuner

TOOLS: Mapping[str, Tool] = {
    tool.name: tool for tool in (ai_toolkit.TOOL, diffusion_pipe.TOOL, onetrainer.TOOL, simpletuner.TOOL, kohya.TOOL)
}
