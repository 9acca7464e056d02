"""The command `trunkline`, and `python -m app`."""

import io
import sys


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # JSON is UTF-8 whatever the locale; and no argument is too odd to be printed back.
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")

    from app.infra import collector, heap

    collector.start_without()
    heap.share_one()

    from app.cli.root import app

    app(prog_name="trunkline")


if __name__ == "__main__":
    main()
