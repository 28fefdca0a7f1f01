"""The numbers that policy is written in: identities, directions, protocols, entities.

Numbering follows Cilium (``pkg/identity/numericidentity.go``) and IANA, because the kernel's maps
and the flows that people read carry these numbers.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NewType

Identity = NewType("Identity", int)
"""What a packet's other end *is*: a number that stands for a set of labels. 0 is any identity."""

ANY_IDENTITY: Final = Identity(0)
HOST: Final = Identity(1)
WORLD: Final = Identity(2)
UNMANAGED: Final = Identity(3)
HEALTH: Final = Identity(4)
INIT: Final = Identity(5)
REMOTE_NODE: Final = Identity(6)
KUBE_APISERVER: Final = Identity(7)
INGRESS: Final = Identity(8)
WORLD_IPV4: Final = Identity(9)
WORLD_IPV6: Final = Identity(10)


class Direction(IntEnum):
    """Seen from the subject: INGRESS is towards it, EGRESS away from it."""

    INGRESS = 0
    EGRESS = 1


class Protocol(IntEnum):
    """IANA protocol numbers; ANY is the wildcard of the kernel's policy key."""

    ANY = 0
    ICMP = 1
    IGMP = 2
    TCP = 6
    UDP = 17
    ICMPV6 = 58
    VRRP = 112
    SCTP = 132


PORT_PROTOCOLS: Final = (Protocol.TCP, Protocol.UDP, Protocol.SCTP)
"""What ``protocol: ANY`` means in a port rule: every protocol with ports, and never ICMP."""

DNS_PROTOCOLS: Final = (Protocol.UDP, Protocol.TCP)
"""What the DNS proxy speaks."""

PORTLESS_PROTOCOLS: Final = (Protocol.IGMP, Protocol.VRRP)
