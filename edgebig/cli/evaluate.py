"""``edgebig eval``: how well a bundle does on labelled data, and what it lost."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgebig.cli.console import guarded_stdout, print_json, table
from edgebig.cli.loading import load_session
from edgebig.errors import EvaluationError, UsageError

if TYPE_CHECKING:
    from edgebig.bundle import Bundle
    from edgebig.evaluate import Drop, Interval, Metric, Score
    from edgebig.evaluate.score import Run

_EVERY = 20
_EPILOG = """\b
Examples:
  edgebig eval resnet50.bundle --eval val/                        class-named folders of pictures
  edgebig eval resnet50.bundle --eval val/ --metric top-5 --against resnet50.onnx
  edgebig eval minilm.bundle --eval sts.jsonl --metric spearman
  edgebig eval model.bundle --eval test.npz --metric mine.py:auc

docs/evaluation.md says which files are read, where labels stand, and what each metric is."""


@click.command(name="eval", epilog=_EPILOG, short_help="Scores BUNDLE on labelled data.")
@click.argument("bundle")
@click.option("--eval", "data", metavar="PATH", required=True, help="Samples with their labels: a file or folder.")
@click.option(
    "--metric", metavar="NAME", help="accuracy, f1, wer … or file.py:function; what suits the task by default."
)
@click.option(
    "--against",
    metavar="ORIGINAL|BUNDLE2",
    help="What to compare with: 'original' (kept in the bundle), an .onnx file, or another bundle.",
)
@click.option("--part", metavar="NAME", help="Which of the model's graphs, where it has several.")
@click.option("--output", metavar="NAME", help="The output to measure, where the model has several.")
@click.option("--samples", type=click.IntRange(min=1), help="At most so many items; all by default.")
@click.option("--json", "as_json", is_flag=True, help="Prints one JSON object.")
def command(
    bundle: str,
    data: str,
    metric: str | None,
    against: str | None,
    part: str | None,
    output: str | None,
    samples: int | None,
    as_json: bool,
) -> None:
    """Scores BUNDLE on labelled data, and says what it lost against the original or another bundle.

    Without --against, the original is compared with where the bundle keeps it (--keep-original).
    """
    from edgebig.bundle import Bundle
    from edgebig.evaluate import compare_scores
    from edgebig.steps.evaluate_bundle import open_bundle_evaluation

    opened = Bundle.open(bundle)
    against = against or ("original" if opened.part(part).original is not None else None)
    with guarded_stdout():
        evaluation = open_bundle_evaluation(data, opened, part, metric=metric, output=output, samples=samples)
        if evaluation.needs_reference and against is None:
            raise EvaluationError(
                f"{evaluation.metric.name} compares with a reference, and {bundle} keeps no original: name one with "
                "--against, or give labels"
            )
        reference, drop = None, None
        if against is not None:
            with _reference(opened, against, part) as run:
                if evaluation.needs_reference:
                    evaluation = evaluation.against(run)
                reference = evaluation.score(run, _ticker(f"{against}: "))
        with load_session(bundle, part=part) as session:
            found = evaluation.score(session.run, _ticker(f"{bundle}: "))
            backend = session.backend
        _end_ticks()
    if reference is not None:
        drop = compare_scores(reference, found)
    if as_json:
        print_json(
            {
                "bundle": bundle,
                "backend": backend,
                "data": data,
                "labels": evaluation.source,
                "metric": evaluation.metric.name,
                "higher_is_better": evaluation.metric.higher_is_better,
                "score": found.to_json(),
                "against": against,
                "reference": reference.to_json() if reference is not None else None,
                "drop": drop.to_json() if drop is not None else None,
            }
        )
        return
    click.echo("\n".join(_lines(bundle, backend, against, reference, found, drop)))


@contextmanager
def _reference(bundle: Bundle, against: str, part: str | None) -> Iterator[Run]:
    """Runs the original that the bundle keeps, an ONNX file, or another bundle."""
    if against == "original":
        from edgebig.runtime import load_original

        with load_original(bundle.path, part=part) as session:
            yield session.run
    elif against.endswith(".onnx"):
        from edgebig.graph import Executor

        if not Path(against).is_file():
            raise UsageError(f"--against {against}: no such file")
        with Executor(Path(against), "all") as executor:
            yield lambda sample: executor.run(_plain(sample))
    else:
        with load_session(against, part=part) as session:
            yield session.run


def _plain(sample: Mapping[str, Any]) -> dict[str, Any]:
    return dict(sample)


def _ticker(head: str) -> Callable[[int], None]:
    """Shows the number of items done on a terminal."""
    if not sys.stderr.isatty():
        return lambda count: None

    def tick(count: int) -> None:
        if count % _EVERY == 0:
            click.echo(f"\r{head}{count} items\x1b[K", nl=False, err=True)

    return tick


def _end_ticks() -> None:
    if sys.stderr.isatty():
        click.echo("\r\x1b[K", nl=False, err=True)


def _lines(
    bundle: str, backend: str, against: str | None, reference: Score | None, found: Score, drop: Drop | None
) -> list[str]:
    metric = found.metric
    better = "higher" if metric.higher_is_better else "lower"
    rows = [["", metric.name, "95 % interval"]]
    if reference is not None:
        rows.append([str(against), metric.text(reference.value), _range(reference.interval, metric)])
    rows.append([bundle, metric.text(found.value), _range(found.interval, metric)])
    if drop is not None:
        shown = metric.text(drop.value, is_difference=True)
        rows.append(["lost", shown, _range(drop.interval, metric, is_difference=True)])
    lines = table(rows, right=[1])
    lines.append(f"{found.items} items, run by {backend}; {better} is better; {_method(found, drop)}")
    if drop is not None and drop.within_noise:
        lines.append("what was lost is within the noise: these items do not tell the two apart")
    return lines


def _range(interval: Interval | None, metric: Metric, *, is_difference: bool = False) -> str:
    if interval is None:
        return "unknown"
    low, high = (metric.text(v, is_difference=is_difference) for v in (interval.low, interval.high))
    return f"{low} to {high}"


def _method(found: Score, drop: Drop | None) -> str:
    methods = [i.method for i in (found.interval, drop.interval if drop is not None else None) if i is not None]
    return "intervals: " + ", ".join(dict.fromkeys(methods)) if methods else "no interval could be made"
