"""Opens a bundle for the commands that run one."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from edgebig.cli.console import warn

if TYPE_CHECKING:
    from edgebig.runtime import Session


def load_session(bundle: str, *, part: str | None = None, threads: int | None = None) -> Session:
    """The bundle on the best backend that is here; the runtime's warnings become lines on standard error.

    Raises:
        EdgebigError: as :func:`edgebig.runtime.load`.
    """
    from edgebig.runtime import load

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", RuntimeWarning)
        session = load(bundle, part=part, threads=threads)
    for warning in caught:
        warn(str(warning.message))
    return session
