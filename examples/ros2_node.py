"""A ROS 2 node that runs a model on camera images.

    edgebig compile best.onnx -o twinlitenet.bundle --target cpu --recipe twinlitenet
    python examples/ros2_node.py --ros-args -p bundle:=twinlitenet.bundle -r image:=/camera/image_raw

Topics: ``image`` (sensor_msgs/Image) in; out, for each output of the model, ``<output>``: score maps ``[1, classes,
height, width]`` as sensor_msgs/Image (``mono8``, the number of the best class of each pixel), any other as
std_msgs/Float32MultiArray. What a topic's name may not hold becomes ``_``. Once a second, ``diagnostics``
(diagnostic_msgs/DiagnosticArray).

Parameters: ``bundle`` (setting it later reloads: the old model goes on until the new one has answered its golden
inputs; images wait meanwhile if they are prepared otherwise for the new one), ``deadline`` (seconds; answers that
come later are dropped and counted), ``threads``.

The newest image is the one that counts: while the model runs, an image that waits is replaced by the next. ROS's Python
library ``rclpy`` is imported only when the node starts; what the node does (:class:`Perception`) needs none of it.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edgebig
from edgebig import Session
from edgebig.bundle import PREPROCESS, Bundle
from edgebig.errors import DeadlineError, EdgebigError, InputError, UsageError
from edgebig.preprocess import Preprocess
from edgebig.tasks.vision import prepare

Array = NDArray[Any]
Publish = Callable[[Any, Mapping[str, Array]], None]

_CHANNELS = {"rgb8": (0, 1, 2), "bgr8": (2, 1, 0), "rgba8": (0, 1, 2), "bgra8": (2, 1, 0), "mono8": (0, 0, 0)}
_BYTES = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}
log = logging.getLogger("edgebig.ros2")


def pixels(message: Any) -> NDArray[np.uint8]:
    """A sensor_msgs/Image as uint8 ``[height, width, 3]`` in RGB; rows may be padded (``step``).

    Raises:
        InputError: an encoding that this node does not read, or fewer bytes than the sizes say.
    """
    width = _BYTES.get(message.encoding)
    if width is None:
        raise InputError(f"the image's encoding is {message.encoding!r}: this node reads {', '.join(_BYTES)}")
    row = message.width * width
    data = np.frombuffer(message.data, np.uint8)
    if message.step < row or data.size < message.step * message.height or 0 in (message.width, message.height):
        raise InputError(
            f"the image says {message.width}x{message.height} {message.encoding} with rows of {message.step} bytes, "
            f"and holds {data.size} bytes"
        )
    rows = data[: message.step * message.height].reshape(message.height, message.step)[:, :row]
    return np.ascontiguousarray(
        rows.reshape(message.height, message.width, width)[..., list(_CHANNELS[message.encoding])]
    )


@dataclass
class Counts:
    """What became of the images: answered, replaced by a newer one while they waited, too late, refused or failed."""

    answered: int = 0
    replaced: int = 0
    late: int = 0
    failed: int = 0


class Perception:
    """Takes images, keeps the newest, and publishes what the model says of it; the model runs in a thread of its own.

    Args of the constructor:
        session: the loaded model, whose first input is the picture.
        how: how a picture becomes that input.
        publish: called with the image's header and the outputs by name, in the model's thread.
        deadline: seconds after which an answer is dropped; ``None``: never.
    """

    def __init__(self, session: Session, how: Preprocess, publish: Publish, deadline: float | None = None) -> None:
        self._session, self._how, self._publish, self._deadline = session, how, publish, deadline
        self._newest: Any = None
        self._closed = False
        self._changed = threading.Condition()
        self._answering = threading.Lock()
        self.counts = Counts()
        self._thread = threading.Thread(target=self._work, name="perception", daemon=True)
        self._thread.start()

    def take(self, message: Any) -> None:
        """Takes an image; never waits."""
        with self._changed:
            if self._newest is not None:
                self.counts.replaced += 1
            self._newest = message
            self._changed.notify()

    def reload(self, path: str) -> None:
        """Goes on with another bundle; no image is prepared for one model and given to the other.

        Raises:
            EdgebigError: it is refused, and the old one goes on.
        """
        how = preparation(path)
        if how == self._how:
            self._session.reload(path)
            return
        with self._answering:
            self._session.reload(path)
            self._how = how

    def close(self) -> None:
        """Ends the thread, after the image that it works on."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                while self._newest is None and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                message, self._newest = self._newest, None
            try:
                with self._answering:
                    self._answer(message)
                self.counts.answered += 1
            except DeadlineError:
                self.counts.late += 1
            except Exception as error:  # one bad image, or a hiccup of the device, must not end the node
                self.counts.failed += 1
                log.warning("no answer to an image: %s", error)

    def _answer(self, message: Any) -> None:
        spec = self._session.inputs[0]
        inputs = {spec.name: prepare(pixels(message), self._how).astype(spec.dtype, copy=False)}
        self._publish(message.header, self._session.run(inputs, timeout=self._deadline))


def preparation(path: str) -> Preprocess:
    """How a picture becomes the model's input.

    Raises:
        BundleError: not a bundle, or it does not say.
    """
    return Preprocess.from_json(json.loads(Bundle.open(path).file(PREPROCESS).read_text(encoding="utf-8")))


def topic(output: str) -> str:
    """The output's name as one of a topic: letters, digits and ``_``, no digit first."""
    name = re.sub(r"[^A-Za-z0-9_]+", "_", output).strip("_") or "output"
    return f"output_{name}" if name[0].isdigit() else name


def mask(scores: Array) -> NDArray[np.uint8]:
    """The number of each pixel's best class, uint8 ``[height, width]``, of ``[1, classes, height, width]``."""
    return np.ascontiguousarray(scores[0].argmax(axis=0).astype(np.uint8))


def fill_image(message: Any, header: Any, scores: Array) -> Any:
    """Makes a sensor_msgs/Image of score maps: the number of each pixel's best class."""
    best = mask(scores)
    message.header, message.encoding = header, "mono8"
    message.height, message.width = best.shape
    message.step, message.data = message.width, array("B", best.tobytes())  # of arrays rclpy checks the type alone
    return message


def fill_numbers(message: Any, dimension: Callable[..., Any], values: Array) -> Any:
    """Makes a std_msgs/Float32MultiArray of an output: its sizes, and its values in row-major order."""
    for axis, size in enumerate(values.shape):
        stride = int(np.prod(values.shape[axis:]))
        message.layout.dim.append(dimension(label=str(axis), size=size, stride=stride))
    message.data = array("f", values.astype(np.float32).tobytes())
    return message


def main() -> None:
    """Spins the node until ROS shuts down."""
    try:
        import rclpy
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error}: run it where ROS 2 is set up (source /opt/ros/DISTRIBUTION/setup.bash)")
    rclpy.init()
    try:
        node = make_node()
    except EdgebigError as error:
        rclpy.try_shutdown()
        sys.exit(f"error: {error}")
    try:
        rclpy.spin(node)
    except KeyboardInterrupt:
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


def make_node() -> Any:
    """The node: it wires topics and parameters to a :class:`Perception`."""
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
    from rcl_interfaces.msg import SetParametersResult
    from rclpy.node import Node
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import Image
    from std_msgs.msg import Float32MultiArray, MultiArrayDimension

    class EdgebigNode(Node):  # type: ignore[misc]
        """Images in, the model's outputs out."""

        def __init__(self) -> None:
            super().__init__("edgebig")
            path = self.declare_parameter("bundle", "").value
            if not path:
                raise UsageError("no bundle was given: --ros-args -p bundle:=FOLDER")
            deadline = float(self.declare_parameter("deadline", 0.0).value)
            threads = int(self.declare_parameter("threads", 0).value)
            self.session = edgebig.load(path, threads=threads or None)
            self.session.warm_up()
            self.get_logger().info(f"{path} runs on {self.session.backend}: {'; '.join(self.session.why)}")
            maps = {spec.name for spec in self.session.outputs if len(spec.shape) == 4}
            self._topics = {
                spec.name: self.create_publisher(Image if spec.name in maps else Float32MultiArray, topic(spec.name), 1)
                for spec in self.session.outputs
            }
            self._status = self.create_publisher(DiagnosticArray, "diagnostics", 1)
            self.perception = Perception(self.session, preparation(path), self._publish, deadline or None)
            self.create_subscription(Image, "image", self.perception.take, qos_profile_sensor_data)
            self.create_timer(1.0, self._report)
            self.add_on_set_parameters_callback(self._set)

        def destroy_node(self) -> None:
            """Ends the thread and frees the engine."""
            self.perception.close()
            self.session.close()
            super().destroy_node()

        def _publish(self, header: Any, outputs: Mapping[str, Array]) -> None:
            for name, values in outputs.items():
                if values.ndim == 4:
                    self._topics[name].publish(fill_image(Image(), header, values))
                else:
                    self._topics[name].publish(fill_numbers(Float32MultiArray(), MultiArrayDimension, values))

        def _report(self) -> None:
            stats, counts = self.session.stats(), self.perception.counts
            times = {"p50_seconds": stats.p50, "p99_seconds": stats.p99}
            values = {"backend": self.session.backend, **vars(counts), **times}
            healthy = counts.failed == 0
            status = DiagnosticStatus(
                level=DiagnosticStatus.OK if healthy else DiagnosticStatus.WARN,
                name="edgebig",
                message="running" if healthy else "some images had no answer: see the log",
                values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
            )
            message = DiagnosticArray(status=[status])
            message.header.stamp = self.get_clock().now().to_msg()
            self._status.publish(message)

        def _set(self, parameters: Any) -> Any:
            for parameter in parameters:  # ROS has some of its own, such as use_sim_time
                if parameter.name in ("deadline", "threads"):
                    return SetParametersResult(successful=False, reason=f"{parameter.name} is read at the start only")
            for path in (parameter.value for parameter in parameters if parameter.name == "bundle"):
                try:
                    self.perception.reload(path)
                except EdgebigError as error:
                    return SetParametersResult(successful=False, reason=str(error))
            return SetParametersResult(successful=True)

    return EdgebigNode()


if __name__ == "__main__":
    main()
