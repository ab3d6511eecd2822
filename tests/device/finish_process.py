"""``edgebig finish`` in a process of its own, on a machine that looks like an L4: run by the tests."""

from __future__ import annotations

import functools
import sys

from machines import FACTS, on_the_cpu

from edgebig.cli.main import main
from edgebig.device import facts, finish

facts.read_facts = lambda **_: FACTS
finish.finish = functools.partial(finish.finish, facts=FACTS, opened=on_the_cpu)
main(sys.argv[1:])
