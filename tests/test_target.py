"""The table of targets, and the files of a user's own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgebig.errors import TargetError
from edgebig.target import Target, targets

DOCS = Path(__file__).resolve().parent.parent / "docs" / "targets.md"

NAMES = [
    "cpu", "cpu-x86", "cpu-arm64",
    "t4", "a10", "a100", "l4", "l40s", "h100", "h200", "b200", "rtx-pro-6000",
    "gb10", "rtx-4090", "rtx-5090",
    "orin-nano-4gb", "orin-nano-8gb", "orin-nx-8gb", "orin-nx-16gb", "agx-orin-32gb", "agx-orin-64gb",
    "agx-thor", "agx-xavier", "xavier-nx",
]  # fmt: skip
JETSONS = NAMES[NAMES.index("orin-nano-4gb") :]

COMPUTE_CAPABILITIES = {
    "t4": "7.5", "a10": "8.6", "a100": "8.0", "l4": "8.9", "l40s": "8.9", "h100": "9.0", "h200": "9.0", "b200": "10.0",
    "rtx-pro-6000": "12.0", "gb10": "12.1", "rtx-4090": "8.9", "rtx-5090": "12.0", "agx-thor": "11.0",
    "agx-xavier": "7.2", "xavier-nx": "7.2", "orin-nano-4gb": "8.7", "orin-nano-8gb": "8.7", "orin-nx-8gb": "8.7",
    "orin-nx-16gb": "8.7", "agx-orin-32gb": "8.7", "agx-orin-64gb": "8.7",
}  # fmt: skip


def _row(**changes: Any) -> dict[str, Any]:
    """A small row that is right, but for the changes; a change to None takes the field out."""
    row: dict[str, Any] = {
        "name": "mine",
        "description": "a device of my own",
        "engine": "ahead",
        "compute_capability": "8.6",
        "precisions": ["fp32", "fp16"],
    }
    row.update(changes)
    return {k: v for k, v in row.items() if v is not None}


def _refusal(path: Path, text: str) -> str:
    """The message with which that file's content is refused, after the checks that hold for every refusal."""
    path.write_text(text, encoding="utf-8")
    with pytest.raises(TargetError) as caught:
        Target.load(path)
    message = str(caught.value)
    assert caught.value.exit_code == 9
    assert "\n" not in message
    assert str(path) in message
    return message


def test_names_in_their_order() -> None:
    assert list(targets()) == NAMES
    assert [n for n, t in targets().items() if t.group == "Jetson"] == JETSONS


def test_no_name_stands_twice() -> None:
    rows = yaml.safe_load((Path(__file__).parent.parent / "edgebig" / "targets.yaml").read_text(encoding="utf-8"))
    assert [row["name"] for row in rows["targets"]] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_row_is_whole(name: str) -> None:
    target = Target.load(name)
    assert target.name == name
    assert target.description and "\n" not in target.description and len(target.description) < 160
    assert target.group in {"Processors", "Data center", "Desk and edge", "Jetson"}
    assert "fp32" in target.precisions and len(set(target.precisions)) == len(target.precisions)
    assert set(target.peak_tops) <= set(target.precisions)
    assert "precisions" in target.sources
    assert target.is_nvidia == (target.engine != "host")
    figures = {f"peak_tops.{p}" for p in target.peak_tops} | {"precisions"}
    if target.is_nvidia:
        figures |= {"memory_gb", "bandwidth_gb_s", "compute_capability"}
        assert target.memory_gb and target.bandwidth_gb_s and target.software
    figures |= {"dla_cores"} if target.group == "Jetson" else set()
    assert set(target.sources) == figures, "a source for each figure, and none for what is not there"


def test_compute_capabilities() -> None:
    found = {n: t.compute_capability for n, t in targets().items() if t.compute_capability}
    assert found == COMPUTE_CAPABILITIES


def test_how_engines_come_to_be() -> None:
    table = targets()
    assert [n for n, t in table.items() if t.engine == "host"] == ["cpu", "cpu-x86", "cpu-arm64"]
    assert [n for n, t in table.items() if t.engine == "on-device"] == ["h100", "h200", "b200", *JETSONS]
    assert {table[n].architecture for n in JETSONS} == {"aarch64"}
    assert [table[n].architecture for n in ("cpu", "cpu-x86", "cpu-arm64", "gb10", "l4")] == [
        "native", "x86_64", "aarch64", "aarch64", "any",
    ]  # fmt: skip


def test_formats_follow_the_hardware() -> None:
    for target in (t for t in targets().values() if t.compute_capability):
        capability = tuple(int(part) for part in str(target.compute_capability).split("."))
        has = set(target.precisions)
        assert {"fp32", "fp16", "int8"} <= has, target.name
        assert ({"tf32", "bf16", "int4"} <= has) == (capability >= (8, 0)), target.name
        assert ("fp8" in has) == (capability >= (8, 9)), target.name
        assert ("fp4" in has) == (capability >= (10, 0)), target.name


def test_facts_by_value() -> None:
    orin, a100, l4 = (Target.load(n) for n in ("agx-orin-64gb", "a100", "l4"))
    assert "fp8" not in orin.precisions and "fp8" not in a100.precisions
    assert (l4.compute_capability, l4.engine, l4.peak_tops["fp8"]) == ("8.9", "ahead", 242.5)
    assert "full TensorRT" in a100.description
    assert (orin.memory_gb, orin.bandwidth_gb_s, orin.dla_cores, orin.peak_tops["int8"]) == (64, 204.8, 2, 85)
    assert {n: Target.load(n).dla_cores for n in ("orin-nano-8gb", "orin-nx-8gb", "agx-thor", "xavier-nx")} == {
        "orin-nano-8gb": 0, "orin-nx-8gb": 1, "agx-thor": 0, "xavier-nx": 2,
    }  # fmt: skip


def test_stacks_of_the_jetsons() -> None:
    stacks = {n: {s.name: s.tensorrt for s in targets()[n].software} for n in JETSONS}
    assert stacks["agx-xavier"] == stacks["xavier-nx"] == {"JetPack 5.1.x": "8.5.2"}
    assert stacks["orin-nano-8gb"]["JetPack 6.2"] == "10.3.0"
    assert list(stacks["agx-thor"].values()) == ["10.13", "10.13.3", "10.16.2", "11.4.1"]
    with_11 = [n for n, stack in stacks.items() if "11.4.1" in stack.values()]
    assert with_11 == ["agx-orin-32gb", "agx-orin-64gb", "agx-thor"]


@pytest.mark.parametrize("name", [n for n in NAMES if targets()[n].peak_tops])
def test_narrower_formats_are_no_slower(name: str) -> None:
    peak: dict[str, float] = {str(p): rate for p, rate in targets()[name].peak_tops.items()}
    for order in (("fp32", "tf32", "fp16", "int8"), ("fp16", "fp8", "fp4")):
        rates = [rate for p in order if (rate := peak.get(p)) is not None]
        assert rates == sorted(rates)
    if "bf16" in peak:
        assert peak["bf16"] == peak["fp16"]


def test_derived_rates_are_what_their_sources_say() -> None:
    """Where a source reads ``half of 485 with sparsity``, the row holds that half."""
    checked = 0
    for target in targets().values():
        for field, source in target.sources.items():
            match = re.search(r"half of (?:the GPU's )?([\d.]+)( PFLOPS?)? with sparsity", source)
            if match:
                scale = 1000 if match[2] else 1
                rates: dict[str, float] = {f"peak_tops.{p}": rate for p, rate in target.peak_tops.items()}
                assert rates[field] == float(match[1]) * scale / 2
                checked += 1
    assert checked > 15


def test_file_in_the_docs_loads(tmp_path: Path) -> None:
    block = re.search(r"```yaml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.S)
    assert block
    path = tmp_path / "rtx-3090.yaml"
    path.write_text(block[1], encoding="utf-8")
    target = Target.load(path)
    assert (target.name, target.engine, target.compute_capability) == ("rtx-3090", "ahead", "8.6")
    assert target.peak_tops["int8"] == 284 and target.software[0].tensorrt == "1.7.1"
    assert Target.load(str(path)) == target


def test_smallest_file_loads(tmp_path: Path) -> None:
    path = tmp_path / "mine.yml"
    path.write_text(yaml.safe_dump(_row()), encoding="utf-8")
    target = Target.load(path)
    assert (target.group, target.architecture, target.memory_gb, target.peak_tops) == ("own", "any", None, {})


def test_unknown_name_says_where_to_look() -> None:
    with pytest.raises(TargetError, match="unknown target 'h900': 'edgebig targets' lists the 24") as caught:
        Target.load("h900")
    assert caught.value.exit_code == 9 and "\n" not in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nowhere.yaml"
    with pytest.raises(TargetError, match="No such file") as caught:
        Target.load(path)
    assert caught.value.exit_code == 9 and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_file_that_is_not_yaml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    assert "is not YAML" in _refusal(path, "name: [unclosed\nengine: {")
    assert "must hold one mapping of fields, found list" in _refusal(path, "- name: mine\n")
    assert "found NoneType" in _refusal(path, "")
    path.write_bytes(b"\x89PNG\xff\xfe\x00")
    with pytest.raises(TargetError, match="is not YAML"):
        Target.load(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"engine": None}, "engine: Field required"),
        ({"precisions": None}, "precisions: Field required"),
        ({"compute_capability": None}, "mine.yaml: compute_capability is needed where engine is ahead"),
        ({"compute_capability": 8.6}, "compute_capability: YAML reads 8.6 as a number: write it in quotes"),
        ({"memory_gb": 24}, "sources lacks memory_gb"),
        ({"peak_tops": {"fp32": 35, "fp16": 71}, "sources": {"peak_tops.fp16": "x"}}, "sources lacks peak_tops.fp32"),
        ({"peak_tops": {"int8": 284}, "sources": {"peak_tops.int8": "x"}}, "peak_tops names int8, which"),
        ({"peak_tops": {"fp16": -1}, "sources": {"peak_tops.fp16": "x"}}, "peak_tops.fp16: Input should be greater"),
        ({"memory_gb": float("inf"), "sources": {"memory_gb": "x"}}, "memory_gb: Input should be a finite number"),
        ({"precisions": []}, "precisions: Tuple should have at least 1 item"),
        ({"engine": "host"}, "compute_capability is a GPU's"),
        ({"memory_gb": -1, "sources": {"memory_gb": "x"}}, "memory_gb: Input should be greater than 0, found -1"),
        ({"precisions": ["fp32", "fp12"]}, "precisions.1: Input should be"),
        ({"name": "My Device"}, "name: String should match"),
        ({"colour": "green"}, "colour: Extra inputs are not permitted"),
    ],
)
def test_wrong_field_is_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    assert said in _refusal(tmp_path / "mine.yaml", yaml.safe_dump(_row(**changes)))


def test_key_that_is_no_text_is_refused(tmp_path: Path) -> None:
    assert "Keys should be strings" in _refusal(tmp_path / "mine.yaml", yaml.safe_dump({**_row(), 1: "a"}))
