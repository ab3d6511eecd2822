"""``python -m edgebig`` is the ``edgebig`` command."""

from __future__ import annotations

from edgebig.cli.main import main

if __name__ == "__main__":
    main()
