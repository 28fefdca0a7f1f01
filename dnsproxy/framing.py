"""DNS messages on a byte stream: two octets of length, then the message (RFC 1035 §4.2.2).

Segments mean nothing: a message may come octet by octet, and many may come at once. What is held
is less than one message and one read.
"""

from __future__ import annotations

from typing import Final

from dnsproxy.model import DnsProxyError

_PREFIX_OCTETS: Final = 2
_LEAST_MESSAGE: Final = 12  # a header
_MOST_MESSAGE: Final = 0xFFFF


class FramingError(DnsProxyError):
    """The length prefix announces what cannot be a DNS message; the stream is of no more use."""


class Deframer:
    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, octets: bytes) -> None:
        self._buffer += octets

    def next_message(self) -> bytes | None:
        """The next whole message, None until more octets are fed. Raises `FramingError`."""
        buffer = self._buffer
        if len(buffer) < _PREFIX_OCTETS:
            return None
        length = buffer[0] << 8 | buffer[1]
        if length < _LEAST_MESSAGE:
            raise FramingError(f"a length of {length} octets is no DNS message")
        end = _PREFIX_OCTETS + length
        if len(buffer) < end:
            return None
        message = bytes(buffer[_PREFIX_OCTETS:end])
        del buffer[:end]
        return message

    @property
    def partial(self) -> bool:
        """Whether octets of an unfinished message are held."""
        return bool(self._buffer)


def frame(message: bytes) -> bytes:
    if len(message) > _MOST_MESSAGE:
        raise FramingError(f"a message of {len(message)} octets does not fit the prefix")
    return len(message).to_bytes(_PREFIX_OCTETS, "big") + message
