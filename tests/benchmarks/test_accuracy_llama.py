"""The code that measures perplexity; nothing here asserts how good a method is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.accuracy import llama_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("optimum.exporters.onnx")


def test_docstrings_of_a_module(tmp_path: Path) -> None:
    file = tmp_path / "m.py"
    file.write_text(
        '"""One."""\n\nclass A:\n    """Two."""\n    def f(self):\n        """Three."""\n        "not one"\n'
    )
    assert llama_model.docstrings(file) == "One.\n\nTwo.\n\nThree."
    file.write_text("def (")
    assert llama_model.docstrings(file) == ""


def test_the_standard_library_comes_in_order_and_without_its_tests() -> None:
    found = list(llama_model.sources())
    assert found == sorted(found) and len(found) > 300
    assert not any("test" in path.parts or "site-packages" in path.parts for path in found)


def test_perplexity_is_torchs_and_quantized_graphs_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.accuracy import llama

    small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "vocab_size": 96}
    config = {**llama_model.CONFIG, **small}
    monkeypatch.setattr(llama, "CONFIG", config)
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config)).eval()
    model.save_pretrained(tmp_path / "model")
    windows = np.random.default_rng(0).integers(0, 96, (11, 32))
    ids = torch.from_numpy(windows)
    with torch.no_grad():
        expected = float(torch.exp(model(input_ids=ids, labels=ids).loss))
    graph = llama.exported(tmp_path / "model", tmp_path)
    found, divergence = llama.loss(graph, windows, graph)
    assert found == pytest.approx(expected, rel=1e-4) and abs(divergence) < 1e-9
    monkeypatch.setattr(llama, "WAYS", (llama.Way("a", block=32), llama.Way("b", block=32, awq=True, method="gptq")))
    rows = llama.measure(graph, llama.samples(graph, windows[:4]), windows)
    assert [row.title for row in rows] == ["FP32", "a", "b"]
    assert rows[0].ratio == 1.0 and all(0.9 < row.ratio < 1.1 and row.ratio != 1.0 for row in rows[1:])
    assert rows[0].divergence == 0 < rows[2].divergence < rows[1].divergence
    text = llama.table(rows, windows[:, 1:].size)
    assert "341 held-out tokens" in text and f"| a | {rows[1].perplexity:.3f} |" in text
