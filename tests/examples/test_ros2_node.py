"""What the ROS 2 node does, without ROS; and its wiring, with stand-ins for ROS's classes."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from example_models import run

import edgebig
from edgebig.bundle import PREPROCESS, Bundle, hash_file
from edgebig.errors import InputError
from edgebig.preprocess import Preprocess

pytestmark = pytest.mark.usefixtures("scripts")


def image(array: np.ndarray[Any, Any], encoding: str, pad: int = 0, stamp: int = 0) -> SimpleNamespace:
    """A sensor_msgs/Image of uint8 ``[height, width, channels]``, each row followed by ``pad`` bytes."""
    height, width, channels = array.shape
    rows = np.pad(array.reshape(height, width * channels), [(0, 0), (0, pad)], constant_values=99)
    return SimpleNamespace(
        header=SimpleNamespace(stamp=stamp),
        height=height,
        width=width,
        encoding=encoding,
        step=width * channels + pad,
        data=rows.tobytes(),
    )


RGB = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
ALPHA = np.full((2, 3, 1), 200, np.uint8)


@pytest.mark.parametrize("pad", [0, 5])
@pytest.mark.parametrize(
    ("encoding", "array", "expected"),
    [
        ("rgb8", RGB, RGB),
        ("bgr8", RGB[..., ::-1], RGB),
        ("rgba8", np.concatenate([RGB, ALPHA], 2), RGB),
        ("bgra8", np.concatenate([RGB[..., ::-1], ALPHA], 2), RGB),
        ("mono8", RGB[..., :1], np.repeat(RGB[..., :1], 3, axis=2)),
    ],
)
def test_pixels_of_a_message(encoding: str, array: np.ndarray[Any, Any], expected: Any, pad: int) -> None:
    from ros2_node import pixels

    np.testing.assert_array_equal(pixels(image(array, encoding, pad)), expected)


def test_messages_that_make_no_picture() -> None:
    from ros2_node import pixels

    with pytest.raises(InputError, match=r"the image's encoding is '16UC1': this node reads rgb8, bgr8, .*"):
        pixels(SimpleNamespace(encoding="16UC1"))
    short = image(RGB, "rgb8")
    short.data = short.data[:-1]
    with pytest.raises(InputError, match=r"says 3x2 rgb8 with rows of 9 bytes, and holds 17 bytes"):
        pixels(short)
    short.step = 8
    with pytest.raises(InputError, match="rows of 8 bytes"):
        pixels(short)


def test_numbers_of_an_output() -> None:
    from ros2_node import fill_numbers

    values = np.arange(6, dtype=np.float16).reshape(1, 2, 3)
    made = fill_numbers(SimpleNamespace(layout=SimpleNamespace(dim=[])), SimpleNamespace, values)
    assert [(d.label, d.size, d.stride) for d in made.layout.dim] == [("0", 1, 6), ("1", 2, 6), ("2", 3, 3)]
    assert made.data.typecode == "f" and made.data.tolist() == [0, 1, 2, 3, 4, 5]


class Slow:
    """A session whose runs wait until they are let go."""

    def __init__(self, session: Any) -> None:
        self.inputs, self._session = session.inputs, session
        self.begun, self.go = threading.Event(), threading.Event()

    def run(self, inputs: Any, timeout: float | None) -> Any:
        self.begun.set()
        assert self.go.wait(10)
        return self._session.run(inputs, timeout=timeout)


def until(holds: Callable[[], bool]) -> None:
    """Waits for what another thread is about to do."""
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def how(tiny_maps: Path) -> Preprocess:
    return Preprocess.from_json(json.loads(Bundle.open(tiny_maps).file(PREPROCESS).read_text(encoding="utf-8")))


def test_the_newest_image_is_answered(tiny_maps: Path, how: Preprocess) -> None:
    from ros2_node import Perception, mask

    answers: list[tuple[int, Any]] = []
    picture = np.zeros((16, 16, 3), np.uint8)
    picture[:, 8:] = 255
    with edgebig.load(tiny_maps) as session:
        slow = Slow(session)
        node = Perception(slow, how, lambda header, outputs: answers.append((header.stamp, outputs["scores"])))
        node.take(image(picture, "rgb8", stamp=1))
        assert slow.begun.wait(10)
        for stamp in (2, 3, 4):
            node.take(image(picture, "rgb8", stamp=stamp))
        slow.go.set()
        until(lambda: node.counts.answered == 2)
        node.close()
    assert [stamp for stamp, _ in answers] == [1, 4]
    assert vars(node.counts) == {"answered": 2, "replaced": 2, "late": 0, "failed": 0}
    np.testing.assert_array_equal(mask(answers[0][1]), np.repeat([[0] * 8 + [1] * 8], 16, axis=0))


def test_a_bad_image_and_a_late_answer_are_counted_and_the_node_goes_on(tiny_maps: Path, how: Preprocess) -> None:
    from ros2_node import Perception

    answers: list[int] = []
    with edgebig.load(tiny_maps) as session:
        node = Perception(session, how, lambda header, _: answers.append(header.stamp), deadline=5)
        node.take(image(RGB, "16UC1"))
        until(lambda: node.counts.failed == 1)
        node._deadline = 1e-9
        node.take(image(RGB, "rgb8", stamp=1))
        until(lambda: node.counts.late == 1)
        node._deadline = 5
        node.take(image(RGB, "rgb8", stamp=2))
        until(lambda: node.counts.answered == 1)
        node.close()
    assert answers == [2]


class FakeNode:
    """As much of rclpy's Node as the example uses."""

    parameters: dict[str, Any] = {}

    def __init__(self, name: str) -> None:
        self.name, self.published, self.destroyed = name, [], False

    def declare_parameter(self, name: str, default: Any) -> Any:
        return SimpleNamespace(value=self.parameters.get(name, default))

    def create_publisher(self, kind: Any, topic: str, depth: int) -> Any:
        return SimpleNamespace(publish=lambda message: self.published.append((topic, message)), kind=kind)

    def create_subscription(self, kind: Any, topic: str, callback: Any, qos: Any) -> None:
        self.image_callback = callback

    def create_timer(self, period: float, callback: Any) -> None:
        self.tick = callback

    def add_on_set_parameters_callback(self, callback: Any) -> None:
        self.set_parameters = callback

    def get_logger(self) -> Any:
        return SimpleNamespace(info=lambda text: None)

    def get_clock(self) -> Any:
        return SimpleNamespace(now=lambda: SimpleNamespace(to_msg=lambda: "now"))

    def destroy_node(self) -> None:
        self.destroyed = True


def message(**defaults: Any) -> Any:
    """A class of messages with fields."""
    return lambda **fields: SimpleNamespace(**{**{k: v() for k, v in defaults.items()}, **fields})


@pytest.fixture
def ros(monkeypatch: pytest.MonkeyPatch, tiny_maps: Path) -> Iterator[Any]:
    """Stand-ins for ROS's modules."""
    status = message()
    status_type = type("DiagnosticStatus", (), {"OK": 0, "WARN": 1, "__new__": lambda cls, **fields: status(**fields)})
    modules: dict[str, dict[str, Any]] = {
        "rclpy": {},
        "rclpy.node": {"Node": FakeNode},
        "rclpy.qos": {"qos_profile_sensor_data": "sensor"},
        "sensor_msgs.msg": {"Image": message()},
        "std_msgs.msg": {
            "Float32MultiArray": message(layout=lambda: SimpleNamespace(dim=[])),
            "MultiArrayDimension": message(),
        },
        "diagnostic_msgs.msg": {
            "DiagnosticArray": message(header=SimpleNamespace),
            "DiagnosticStatus": status_type,
            "KeyValue": message(),
        },
        "rcl_interfaces.msg": {"SetParametersResult": message()},
    }
    for name, members in modules.items():
        made = ModuleType(name)
        vars(made).update(members)
        monkeypatch.setitem(sys.modules, name, made)
    monkeypatch.setattr(FakeNode, "parameters", {"bundle": str(tiny_maps)})
    from ros2_node import make_node

    node = make_node()
    yield node
    node.destroy_node()
    assert node.destroyed


def test_the_node_publishes_masks_diagnostics_and_reloads(ros: Any, tiny_maps: Path, tmp_path: Path) -> None:
    picture = np.full((16, 16, 3), 255, np.uint8)
    picture[4] = 0
    ros.image_callback(image(picture, "bgr8", stamp=7))
    until(lambda: len(ros.published) == 1)
    topic, answer = ros.published[0]
    assert (topic, answer.encoding, answer.height, answer.width, answer.step) == ("scores", "mono8", 16, 16, 16)
    assert answer.header.stamp == 7
    expected = np.ones((16, 16), np.uint8)
    expected[4] = 0
    np.testing.assert_array_equal(np.frombuffer(answer.data, np.uint8).reshape(16, 16), expected)
    until(lambda: ros.perception.counts.answered == 1)
    ros.tick()
    topic, report = ros.published[1]
    values = {pair.key: pair.value for pair in report.status[0].values}
    assert topic == "diagnostics" and report.status[0].level == 0
    assert values["answered"] == "1" and float(values["p50_seconds"]) > 0
    assert ros.set_parameters([SimpleNamespace(name="bundle", value=str(tiny_maps))]).successful
    refused = ros.set_parameters([SimpleNamespace(name="bundle", value=str(tmp_path / "none"))])
    assert not refused.successful and "is not a bundle" in refused.reason
    other = SimpleNamespace(name="bundle", value=str(tmp_path / "none"))
    refused = ros.set_parameters([other, SimpleNamespace(name="threads", value=2)])
    assert refused.reason == "threads is read at the start only"
    assert ros.set_parameters([SimpleNamespace(name="use_sim_time", value=True)]).successful


def test_a_new_bundle_brings_its_own_preparation(tiny_maps: Path, how: Preprocess, tmp_path: Path) -> None:
    """The same model with another mean: what was bright is not any more."""
    from ros2_node import Perception, mask

    other = tmp_path / "other.bundle"
    shutil.copytree(tiny_maps, other)
    changed = {**asdict(how), "mean": [3.0]}
    text = json.dumps(changed)
    (other / PREPROCESS).write_text(text)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["files"][PREPROCESS] = asdict(hash_file(other / PREPROCESS))
    (other / "manifest.json").write_text(json.dumps(manifest))
    masks: list[int] = []
    white = np.full((16, 16, 3), 255, np.uint8)
    with edgebig.load(tiny_maps) as session:
        node = Perception(session, how, lambda _, outputs: masks.append(int(mask(outputs["scores"]).max())))
        for path in (tiny_maps, other, tiny_maps):
            node.reload(str(path))
            answered = node.counts.answered
            node.take(image(white, "rgb8"))
            until(lambda: node.counts.answered > answered)  # noqa: B023
        node.close()
    assert masks == [1, 0, 1]


@pytest.mark.parametrize(
    ("output", "expected"),
    [("scores", "scores"), ("875", "output_875"), ("onnx::Add_12", "onnx_Add_12"), ("head/box.0", "head_box_0")],
)
def test_any_output_has_a_topic(output: str, expected: str) -> None:
    from ros2_node import topic

    assert topic(output) == expected


@pytest.mark.skipif(find_spec("rclpy") is not None, reason="ROS 2 is here")
def test_without_ros_it_is_one_line() -> None:
    assert run("ros2_node.py", fails=True) == (
        "error: No module named 'rclpy': run it where ROS 2 is set up (source /opt/ros/DISTRIBUTION/setup.bash)\n"
    )
