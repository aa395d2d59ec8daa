"""Tokenizers that come with an image processor, with torchvision or without it.

transformers wraps them in processors whose video part needs torchvision, which machines without a GPU often lack. Where
it is installed the stock class is used.
"""

from __future__ import annotations

from typing import Any


def load(loader: str, folder: str) -> Any:
    """Load a processor: the stock class `loader` where torchvision is installed, else what stands in for it."""
    import transformers
    from transformers.utils.import_utils import is_torchvision_available

    stand_ins = {"Qwen2VLProcessor": _qwen2_vl, "PixtralProcessor": _tokenizer_alone}
    if is_torchvision_available():
        return getattr(transformers, loader).from_pretrained(folder, local_files_only=True)
    return stand_ins[loader](folder)


def _tokenizer_alone(folder: str) -> Any:
    """The tokenizer, whose chat template takes the same arguments; it reads no pictures."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)


def _qwen2_vl(folder: str) -> Any:
    return qwen2_vl_class().from_pretrained(folder, local_files_only=True)


def qwen2_vl_class() -> Any:
    """Return a Qwen2VLProcessor without videos: transformers reads its parts from the constructor's arguments."""
    from transformers import Qwen2VLProcessor
    from transformers.processing_utils import ProcessorMixin

    class PictureProcessor(Qwen2VLProcessor):
        """Text and pictures, no videos."""

        def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None) -> None:
            self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
            self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
            self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
            ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    return PictureProcessor
