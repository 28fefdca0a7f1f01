"""What the firewall promises, as things to try with a guarded box."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.kernels.guest.node import Node
from tests.kernels.guest.world import CLOSED, HUGE, MANY, SERVER6, ZONE, World, echoes

(API,) = (a for a in ZONE["api.example.com"] if "." in a)
(API6,) = (a for a in ZONE["api.example.com"] if ":" in a)
EARLY, LATE, SIXTH, BLUE, GREEN = (
    ZONE[name][0]
    for name in (
        "early.example.com",
        "late.example.com",
        "sixth.example.com",
        "svc-blue.example.net",
        "svc-green.example.net",
    )
)


def checks(world: World, node: Node) -> Iterator[tuple[str, Callable[[], bool]]]:
    """What is promised, in order; each is tried when the one before it is done."""
    client = node.client

    def by_kernel() -> int:
        return client.endpoints()[0].dns.by_kernel

    def by_proxy(reason: str) -> int:
        return client.endpoints()[0].dns.by_proxy.get(reason, 0)

    def answers(name: str, wanted: tuple[str, ...], kind: str = "A", *, tcp: bool = False) -> bool:
        told = world.ask(name, kind, tcp=tcp)
        return told.rcode == "NOERROR" and told.addresses == wanted

    yield "an address that nobody learned is dropped", lambda: world.is_dropped(API)
    before = by_kernel()
    yield "an allowed name is answered", lambda: answers("api.example.com", (API,))
    yield "its address is reached", lambda: world.reaches(API)
    yield (
        "over IPv6 too",
        lambda: answers("api.example.com", (API6,), "AAAA") and world.reaches(API6),
    )
    yield "another name is refused", lambda: world.ask("www.example.org").rcode == "REFUSED"
    yield "the kernel alone did so", lambda: by_kernel() == before + 3
    yield "an address that no answer held is dropped", lambda: world.is_dropped(CLOSED)
    yield (
        "30 addresses behind two CNAMEs are learned",
        lambda: (
            answers("www.example.com", MANY) and world.reaches(MANY[0]) and world.reaches(MANY[-1])
        ),
    )
    yield (
        "an answer beyond the bounds is truncated",
        lambda: world.ask("huge.example.com").truncated and world.is_dropped(HUGE[0]),
    )
    yield (
        "and taken over TCP, by the proxy",
        lambda: (
            answers("huge.example.com", HUGE, tcp=True)
            and by_proxy("tcp") == 1
            and world.reaches(HUGE[-1])
        ),
    )
    yield (
        "a star inside a label is judged by the proxy",
        lambda: (
            answers("svc-blue.example.net", (BLUE,))
            and by_proxy("name to be asked about") == 1
            and world.reaches(BLUE)
        ),
    )
    yield (
        "and from then on by the kernel",
        lambda: (
            answers("svc-blue.example.net", (BLUE,)) and by_proxy("name to be asked about") == 1
        ),
    )
    yield (
        "a server that is asked over IPv6: by the kernel",
        lambda: (
            world.ask("sixth.example.com", server=SERVER6).addresses == (SIXTH,)
            and world.ask("www.example.org", server=SERVER6).rcode == "REFUSED"
            and world.reaches(SIXTH)
        ),
    )
    yield (
        "and by the proxy, over UDP and TCP",
        lambda: (
            world.ask("svc-green.example.net", server=SERVER6).addresses == (GREEN,)
            and world.ask("api.example.com", tcp=True, server=SERVER6).addresses == (API,)
            and world.reaches(GREEN)
        ),
    )
    yield (
        "every listing is answered",
        lambda: all(
            listing()
            for listing in (
                client.endpoints,
                client.identities,
                client.policies,
                client.fqdn_cache,
                client.fqdn_names,
                client.ipcache,
                client.learned,
                client.progs,
                client.maps,
                lambda: client.ct_entries(10),
                lambda: client.policy_entries(client.endpoints()[0].id),
            )
        ),
    )
    held = world.connect(API)
    node.kill()
    yield "the agent is dead: a connection lives", lambda: held is not None and echoes(held)
    yield "the agent is dead: what is learned is reached", lambda: world.reaches(API)
    yield (
        "the agent is dead: a new name is learned",
        lambda: answers("early.example.com", (EARLY,)) and world.reaches(EARLY),
    )
    yield (
        "the agent is dead: others are refused",
        lambda: world.ask("www.example.org").rcode == "REFUSED" and world.is_dropped(CLOSED),
    )
    node.start()
    yield (
        "the next agent takes over",
        lambda: (
            len(client.endpoints()) == 1
            and EARLY in {entry.address for entry in client.learned()}
            and world.reaches(EARLY)
            and world.is_dropped(CLOSED)
        ),
    )
    yield (
        "and its proxy serves",
        lambda: answers("late.example.com", (LATE,), tcp=True) and world.reaches(LATE),
    )


def checks_without_kernel_dns(world: World, node: Node) -> Iterator[tuple[str, Callable[[], bool]]]:
    """What holds where the kernel refuses a program that reads DNS."""
    status = node.client.status()
    yield (
        "status says so",
        lambda: (
            not status.kernel_features["kernel dns"]
            and any(problem.subject.startswith("program ") for problem in status.problems)
        ),
    )
    yield (
        "an allowed name is answered, and reached",
        lambda: world.ask("api.example.com").addresses == (API,) and world.reaches(API),
    )
    yield "another name is refused", lambda: world.ask("www.example.org").rcode == "REFUSED"
    yield (
        "the proxy did all of it",
        lambda: node.client.endpoints()[0].dns.by_proxy == {"kernel path off": 2},
    )
    yield "an address that no answer held is dropped", lambda: world.is_dropped(CLOSED)
