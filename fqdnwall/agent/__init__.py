"""The agent: the one place where policy, datapath, DNS proxy and API are wired together."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fqdnwall.api.options import AgentOptions, CleanupOptions


def main(options: AgentOptions) -> int:
    """``fqdnwall agent``: runs until it is told to end; the exit status."""
    from fqdnwall.agent.daemon import main as daemon

    return daemon(options)


def cleanup(options: CleanupOptions) -> int:
    """``fqdnwall cleanup``: take the datapath of an agent off, whether it lives or not."""
    from fqdnwall.agent.daemon import cleanup as clean

    return clean(options)
