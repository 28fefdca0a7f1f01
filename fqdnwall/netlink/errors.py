"""What can go wrong with the host's network, in words that a person can act on."""

from __future__ import annotations


class NetworkError(Exception):
    """Root of this package's errors: the kernel refused, or the host is not as we need it."""


class NotANamespace(NetworkError):
    """A path or pid that was given does not lead to a network namespace."""


class NoSuchInterface(NetworkError):
    """No interface, or no veth pair, where one was asked for."""


class AmbiguousInterface(NetworkError):
    """More than one veth would fit; the message lists them."""
