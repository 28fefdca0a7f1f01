"""The network namespace that `fqdnwall run` makes for one command, and nothing of policy.

`plan`, `resolvers`, `caller` and `confinement` decide; `network`, `forwarding`, `slots`,
`process` and `child` carry out; `sandbox` is what the agent uses.
"""

from fqdnwall.sandbox.network import Places
from fqdnwall.sandbox.plan import Plan
from fqdnwall.sandbox.process import CommandNotStarted, SandboxError
from fqdnwall.sandbox.resolvers import NoResolver, Resolver, Resolvers
from fqdnwall.sandbox.sandbox import (
    Command,
    Interrupted,
    Sandbox,
    SandboxOptions,
    command,
    prepare,
)
from fqdnwall.sandbox.signals import Signals, caught_signals
from fqdnwall.sandbox.slots import NoFreeSlot

__all__ = [
    "Command",
    "CommandNotStarted",
    "Interrupted",
    "NoFreeSlot",
    "NoResolver",
    "Places",
    "Plan",
    "Resolver",
    "Resolvers",
    "Sandbox",
    "SandboxError",
    "SandboxOptions",
    "Signals",
    "caught_signals",
    "command",
    "prepare",
]
