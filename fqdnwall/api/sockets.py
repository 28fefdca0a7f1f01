"""Where agents listen, and which of them are alive.

``fqdnwall agent`` listens at ``DEFAULT_SOCKET``, each ``fqdnwall run`` at ``RUN_DIR/<pid>.sock``. A
socket file outlives an agent that was killed; it is alive if and only if it accepts connections.
"""

from __future__ import annotations

import errno
import socket
from enum import Enum
from pathlib import Path

STATE_DIR = Path("/run/fqdnwall")
DEFAULT_SOCKET = STATE_DIR / "agent.sock"
RUN_DIR = STATE_DIR / "run"

PATH_LIMIT = 107
"""Bytes of a unix socket's path on Linux, without the closing NUL (unix(7))."""


class Liveness(Enum):
    LIVE = "live"
    DEAD = "dead"
    ABSENT = "absent"
    FORBIDDEN = "forbidden"
    """It cannot be told without more rights."""


def liveness(path: Path) -> Liveness:
    """Whether an agent listens at the path. Connects and closes at once."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except FileNotFoundError:
            return Liveness.ABSENT
        except PermissionError:
            return Liveness.FORBIDDEN
        except BlockingIOError:
            return Liveness.LIVE  # its backlog is full: somebody listens
        except OSError as error:
            if error.errno in (errno.ECONNREFUSED, errno.ENOTSOCK, errno.ENOTDIR):
                return Liveness.DEAD
            raise
    return Liveness.LIVE


def candidates(default: Path = DEFAULT_SOCKET, run_dir: Path = RUN_DIR) -> list[Path]:
    """Socket files that exist, the agent's first, then those of runs by process id."""
    runs = sorted(run_dir.glob("*.sock"), key=lambda path: (len(path.stem), path.stem))
    return [path for path in (default, *runs) if liveness(path) is not Liveness.ABSENT]


def live_sockets(default: Path = DEFAULT_SOCKET, run_dir: Path = RUN_DIR) -> list[Path]:
    """Those that an agent listens at, in the order of ``candidates``; also those that only root
    could tell about."""
    alive = (Liveness.LIVE, Liveness.FORBIDDEN)
    return [path for path in candidates(default, run_dir) if liveness(path) in alive]
