"""Trains a small Llama on the docstrings of Python's standard library, and keeps it by the content of its making."""

from __future__ import annotations

import ast
import hashlib
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import ROOT, versions

CACHE = ROOT / "benchmarks" / ".models"
WINDOW = 128
"""Tokens of a window, in training and evaluation."""

VOCABULARY = 1024
STEPS = 400
BATCH = 16
CONFIG: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": 0,
}
_LEFT_OUT = {"test", "tests", "site-packages", "dist-packages", "idlelib", "lib2to3", "__pycache__"}
_HELD_OUT = 10
"""Every so many files are only evaluated on."""


@dataclass(frozen=True)
class Trained:
    """A trained model and its text.

    Attributes:
        folder: as ``save_pretrained`` writes it.
        training: token windows of the training text, int64 ``[windows, WINDOW]``.
        held_out: those of other files.
    """

    folder: Path
    training: np.ndarray[Any, Any]
    held_out: np.ndarray[Any, Any]


def trained(say: Any, steps: int = STEPS) -> Trained:
    """The model, trained now or earlier with the same text, settings and versions.

    Args:
        say: told what happens, a line each.
        steps: of training.
    """
    texts = [docstrings(path) for path in sources()]
    train = [t for i, t in enumerate(texts) if i % _HELD_OUT]
    held = [t for i, t in enumerate(texts) if not i % _HELD_OUT]
    made_of = repr((train, held, CONFIG, steps, BATCH, WINDOW, versions(("torch", "transformers", "tokenizers"))))
    digest = hashlib.sha256((made_of + Path(__file__).read_text(encoding="utf-8")).encode()).hexdigest()[:16]
    folder = CACHE / f"llama-{digest}"
    if not (folder / "windows.npz").exists():
        say(f"training the Llama, {steps} steps")
        _make(folder, train, held, steps, say)
    with np.load(folder / "windows.npz") as windows:
        return Trained(folder, windows["training"], windows["held_out"])


def sources() -> Iterator[Path]:
    """The standard library's modules, in an order that is always the same."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        if not _LEFT_OUT & set(path.relative_to(root).parts):
            yield path


def docstrings(path: Path) -> str:
    """All docstrings of a module, in its order."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return ""
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    found = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds)]
    return "\n\n".join(text for text in found if text)


def _make(folder: Path, train: list[str], held: list[str], steps: int, say: Any) -> None:
    import torch
    import transformers
    from tokenizers import ByteLevelBPETokenizer

    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(train, vocab_size=VOCABULARY, min_frequency=2, show_progress=False)
    training, held_out = (_windows(tokenizer, texts) for texts in (train, held))
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**CONFIG)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps, pct_start=0.1)
    random = np.random.default_rng(0)
    for step in range(steps):
        batch = torch.from_numpy(training[random.integers(0, len(training), BATCH)])
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == steps - 1:
            say(f"step {step}: loss {loss.item():.3f}")
    folder.mkdir(parents=True, exist_ok=True)
    model.eval().save_pretrained(folder)
    partial = folder / "windows.partial.npz"
    np.savez_compressed(partial, training=training, held_out=held_out)
    os.replace(partial, folder / "windows.npz")


def _windows(tokenizer: Any, texts: list[str]) -> np.ndarray[Any, Any]:
    ids = np.concatenate([np.array(tokenizer.encode(text).ids, np.int64) for text in texts if text])
    count = len(ids) // WINDOW
    return ids[: count * WINDOW].reshape(count, WINDOW)
