"""Sources: anything trained becomes a Graph, compared with the original."""

from edgebig.source.huggingface import export_huggingface
from edgebig.source.onnx_file import read_onnx
from edgebig.source.source import Source, SourcePart
from edgebig.source.torch_module import export_module

__all__ = ["Source", "SourcePart", "export_huggingface", "export_module", "read_onnx"]
