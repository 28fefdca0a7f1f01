"""The program that the demo and the tests put under guard: runs commands, one after the other.

A line of JSON in, `["curl", "https://…"]`; a line of JSON out: what the command returned and
printed, and how long it took. It ends with its input. It imports nothing of the project's, so that
what is measured is the command.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

LIMIT_SECONDS = 120


def main() -> None:
    """Serves standard input."""
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        started = time.monotonic()
        try:
            done = subprocess.run(
                json.loads(line),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=LIMIT_SECONDS,
                check=False,
            )
            status, out, err = done.returncode, done.stdout, done.stderr
        except (OSError, subprocess.TimeoutExpired) as error:
            status, out, err = 127, "", str(error)
        seconds = round(time.monotonic() - started, 3)
        answer = {"status": status, "out": out, "err": err, "seconds": seconds}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
