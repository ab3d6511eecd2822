"""Models of common sizes with random weights: speed does not hang on what they have learned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

LENGTH = 128
"""Tokens of a sentence, and of a Llama's window."""


@dataclass(frozen=True)
class Example:
    """A torch module with inputs of one fixed shape each.

    Attributes:
        name: for people.
        module: what torch runs, and what is exported.
        inputs: a tensor for each of its inputs, in order.
        names: of its inputs in the graph.
    """

    name: str
    module: Any
    inputs: tuple[Any, ...]
    names: tuple[str, ...]

    def export(self, path: Path) -> None:
        """Writes it as ONNX, with these shapes fixed."""
        import torch

        torch.onnx.export(
            self.module,
            self.inputs,
            str(path),
            input_names=list(self.names),
            output_names=["y"],
            opset_version=18,
            dynamo=True,
            external_data=False,
            verbose=False,
        )

    def feeds(self) -> dict[str, np.ndarray[Any, Any]]:
        """The inputs as NumPy arrays."""
        return {name: value.numpy() for name, value in zip(self.names, self.inputs, strict=True)}


def examples() -> dict[str, Callable[[], Example]]:
    """What makes each model, by a short name."""
    return {"resnet50": resnet50, "minilm": minilm, "llama": llama_block}


def resnet50() -> Example:
    """ResNet-50 on one picture of 224 x 224."""
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    module = _only("logits", ResNetForImageClassification(ResNetConfig(num_labels=1000)))
    return Example("ResNet-50", module, (torch.randn(1, 3, 224, 224),), ("pixel_values",))


def minilm() -> Example:
    """A BERT of MiniLM-L6's size on one sentence."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    module = _only("last_hidden_state", BertModel(BertConfig(**sizes)))
    ids = torch.randint(0, 30000, (1, LENGTH))
    return Example("MiniLM-L6", module, (ids, torch.ones_like(ids)), ("input_ids", "attention_mask"))


def llama_block() -> Example:
    """One block of a Llama with 1.1 billion weights (22 of these) on a window of embeddings."""
    import torch
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 2048, "intermediate_size": 5632, "num_attention_heads": 32, "num_key_value_heads": 4}
    config = LlamaConfig(vocab_size=32, num_hidden_layers=1, use_cache=False, **sizes)
    module = _embedded(LlamaModel(config))
    return Example("Llama block", module, (torch.randn(1, LENGTH, 2048),), ("embeddings",))


def _only(field: str, model: Any) -> Any:
    """A module that gives one field of a model's answer."""
    import torch

    class Only(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs: Any) -> Any:
            return getattr(self.model(*inputs), field)

    return Only().eval()


def _embedded(model: Any) -> Any:
    """A module that takes embeddings in place of tokens."""
    import torch

    class Embedded(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, embeddings: Any) -> Any:
            return self.model(inputs_embeds=embeddings, use_cache=False).last_hidden_state

    return Embedded().eval()
