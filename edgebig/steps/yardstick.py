"""Yardstick: what a lowered graph loses against the original, in cosine or in the metric of labelled data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from edgebig.errors import AccuracyError, EvaluationError, GraphError
from edgebig.graph import Executor, Graph
from edgebig.graph.execute import Level
from edgebig.request import Request
from edgebig.similarity import Similarity
from edgebig.source import Source
from edgebig.stages import StageNotes
from edgebig.steps.evaluate import Evaluation, open_evaluation
from edgebig.steps.work import Evaluated, PartWork, Sample
from edgebig.verify import outputs_of, similarity_of


class Yardstick:
    """Measures graphs of one part."""

    def __init__(self, part: PartWork, evaluation: Evaluation | None) -> None:
        self._trial = part.examples()
        self._evaluation = evaluation
        self._reference: float | None = None
        if evaluation is not None:
            if evaluation.needs_reference:
                with Executor(part.graph, "all") as executor:
                    evaluation = self._evaluation = evaluation.against(executor.run)
                    self._reference = evaluation.score(executor.run).value
            else:
                self._reference = self._score(part.graph, "all")

    @property
    def inputs(self) -> Sequence[Sample]:
        """The trial inputs."""
        return self._trial.inputs

    def distance(self, graph: Graph, level: Level) -> float:
        """1 - cosine of the worst output on the worst trial input; infinite where the graph cannot be run."""
        try:
            found = similarity_of(self._trial.outputs, outputs_of(graph, self._trial.inputs, level))
        except (AccuracyError, GraphError):
            return math.inf
        return 1 - Similarity.worst(found.values()).cosine

    def mean_distance(self, graph: Graph, level: Level) -> float:
        """1 - cosine of the worst output, averaged over the trial inputs: it tells apart what is nearly as good.

        The worst input of a few is another one with every plan, and says little of the next input.
        """
        try:
            return self.mean_distance_of(outputs_of(graph, self._trial.inputs, level))
        except GraphError:
            return math.inf

    def mean_distance_of(self, found: Sequence[Sample]) -> float:
        """The same for outputs that were computed already, one for each of :attr:`inputs`."""
        try:
            each = [similarity_of([a], [b]) for a, b in zip(self._trial.outputs, found, strict=True)]
        except AccuracyError:
            return math.inf
        return 1 - math.fsum(Similarity.worst(outputs.values()).cosine for outputs in each) / len(each)

    def loss(self, graph: Graph, level: Level) -> float:
        """What ``--max-drop`` limits: the metric's drop where there is labelled data, else :meth:`distance`."""
        evaluated = self.evaluate(graph, level)
        return self.distance(graph, level) if evaluated is None else max(evaluated.drop, 0.0)

    def evaluate(self, graph: Graph, level: Level) -> Evaluated | None:
        """The scores on labelled data, where there is some."""
        if self._evaluation is None or self._reference is None:
            return None
        metric, found = self._evaluation.metric, self._score(graph, level)
        drop = metric.drop(self._reference, found)
        text = f"{metric.name} {metric.text(found)}, {metric.text(self._reference)} before"
        return Evaluated(metric.name, self._reference, found, drop, text)

    def _score(self, graph: Graph, level: Level) -> float:
        if self._evaluation is None:
            raise RuntimeError("there is no labelled data")
        with Executor(graph, level) as executor:

            def run(sample: Mapping[str, object]) -> Sample:
                return executor.run(sample)  # type: ignore[arg-type]

            return self._evaluation.score(run).value


def make_yardstick(part: PartWork, source: Source, request: Request, notes: StageNotes) -> Yardstick:
    """The yardstick that was asked for.

    Raises:
        EvaluationError: the labelled data does not fit, or the model has several parts.
    """
    asked = request.recipe.evaluation
    if asked.data is None:
        return Yardstick(part, None)
    if len(source.parts) > 1:
        raise EvaluationError(
            f"--eval measures models of one graph, and this one has {len(source.parts)}: "
            f"{', '.join(p.name for p in source.parts)}: compile without it and use 'edgebig eval'"
        )
    evaluation = open_evaluation(asked.data, part, source, request, metric=asked.metric, samples=asked.samples)
    notes.progress(f"evaluating on {evaluation.source}")
    return Yardstick(part, evaluation)
