"""No packet meets an address whose identity its policy does not know, nor half a policy."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

from tests.agent.fakemaps import FakePolicies
from tests.agent.world import POLICIES, RESOLVER, World, policy

WIDE = policy("wide", "b", "egress: [{toCIDR: [10.0.0.0/8]}]")
NARROW = policy("narrow", "a", "egress: [{toCIDR: [10.0.0.0/16]}]")
INSIDE = ip_address("10.0.0.1")


def during(world: World, act: Callable[[], None], ask: Callable[[], str]) -> set[str]:
    """Every answer to ``ask`` after each write of ``act``."""
    seen: set[str] = set()
    world.maps.journal.watch = lambda: seen.add(ask())
    act()
    world.maps.journal.watch = lambda: None
    return seen


def verdict(world: World, which: int, address: object, port: int = 443) -> str:
    found: str = world.maps.verdict(100 + which, address, 6, port, int(world.now * 1e9))
    return found


def test_a_narrower_prefix_of_another_endpoints_policy_interrupts_nobody(world: World) -> None:
    world.set_policies([WIDE])
    world.add(1)
    world.add(2)
    assert verdict(world, 2, INSIDE) == "allow"
    seen = during(
        world,
        lambda: world.set_policies([WIDE, NARROW]),
        lambda: verdict(world, 2, INSIDE),
    )
    assert seen == {"allow"}


def test_a_denied_address_is_denied_while_a_narrower_prefix_comes(world: World) -> None:
    closed = policy(
        "closed", "b", "egress: [{toEntities: [all]}]\n  egressDeny: [{toCIDR: [10.0.0.0/8]}]"
    )
    world.set_policies([closed])
    world.add(1)
    world.add(2)
    seen = during(
        world,
        lambda: world.set_policies([closed, NARROW]),
        lambda: verdict(world, 2, INSIDE),
    )
    assert seen == {"drop"}


def test_so_it_is_when_a_new_agent_finds_the_narrower_prefix(world: World) -> None:
    closed = policy(
        "closed", "b", "egress: [{toEntities: [all]}]\n  egressDeny: [{toCIDR: [10.0.0.0/8]}]"
    )
    world.set_policies([closed])
    world.add(1)
    world.add(2)
    world.policies = (closed, NARROW)
    seen = during(world, world.restart, lambda: verdict(world, 2, INSIDE))
    assert seen == {"drop"}
    assert verdict(world, 1, INSIDE) == "allow"


def test_a_name_that_another_selector_matches_now_stays_reachable(world: World) -> None:
    world.set_resolvers([RESOLVER])
    world.set_policies([POLICIES[0]])
    world.add(1)
    world.learn(1, "api.example.com", INSIDE, 60)
    assert verdict(world, 1, INSIDE) == "allow"
    seen = during(
        world, lambda: world.set_policies([POLICIES[1]]), lambda: verdict(world, 1, INSIDE)
    )
    assert seen == {"allow"}


def test_a_policy_that_is_taken_away_opens_before_it_goes(world: World) -> None:
    world.set_policies([NARROW])
    world.add(1)
    seen = during(world, lambda: world.set_policies([]), lambda: verdict(world, 1, INSIDE))
    assert seen == {"allow"}


def test_a_new_agent_leaves_no_moment_without_policy(world: World) -> None:
    world.set_resolvers([RESOLVER])
    world.set_policies(POLICIES)
    for which in (1, 2, 3):
        world.add(which)
    world.learn(1, "api.example.com", INSIDE, 60)
    policies: FakePolicies = world.maps.policies
    before = world.verdicts()
    seen: list[bool] = []
    world.maps.journal.watch = lambda: seen.append(
        all(policies.content(number) for number in world.guarded.values())
        and world.verdicts() == before
    )
    world.restart()
    world.maps.journal.watch = lambda: None
    assert seen
    assert all(seen)


def test_trees_of_names_are_there_before_a_policy_speaks_of_them(world: World) -> None:
    def every_tree_is_whole() -> str:
        rulesets = {
            value.ruleset
            for number in world.maps.policies.endpoints()
            for _, value in world.maps.policies.entries(number)
        } - {0}
        roots = {key.ruleset for key, _ in world.maps.dns_names.items() if not key.name}
        return "whole" if rulesets <= roots else "missing"

    world.set_resolvers([RESOLVER])
    seen = during(world, lambda: world.set_policies(POLICIES[:2]), every_tree_is_whole)
    seen |= during(world, lambda: world.add(1) and None, every_tree_is_whole)
    seen |= during(world, lambda: world.set_policies(POLICIES[1:3]), every_tree_is_whole)
    assert seen == {"whole"}


def test_a_number_is_recorded_before_the_maps_hold_it(world: World) -> None:
    def all_recorded() -> str:
        numbers = {value.identity for _, value in world.maps.ipcache.items()}
        numbers |= {s.identity for _, v in world.maps.learned.items() for s in v.slots}
        known = {number for number, _ in world.maps.identities.items()}
        return "recorded" if {n for n in numbers if n > 255} <= known else "unrecorded"

    world.set_resolvers([RESOLVER])
    seen = during(world, lambda: world.set_policies(POLICIES), all_recorded)
    seen |= during(world, lambda: world.add(1) and None, all_recorded)
    seen |= during(world, lambda: world.learn(1, "api.example.com", INSIDE, 60), all_recorded)
    assert seen == {"recorded"}


def test_identities_are_the_same_after_a_restart(world: World) -> None:
    world.set_resolvers([RESOLVER])
    world.set_policies(POLICIES)
    endpoint = world.add(1)
    world.learn(1, "api.example.com", INSIDE, 60)
    before = dict(world.maps.identities.items())
    learned = dict(world.maps.learned.items())
    world.restart()
    assert dict(world.maps.identities.items()) == before
    assert dict(world.maps.learned.items()) == learned
    assert world.firewall.endpoints[endpoint.id].identity == endpoint.identity


def test_no_endpoint_gets_the_number_of_one_that_is_gone(world: World) -> None:
    first = world.add(1).id
    world.remove(1)
    second = world.add(1).id
    world.remove(1)
    world.restart()
    third = world.add(1).id
    assert len({first, second, third}) == 3


def test_endpoints_with_one_policy_share_its_map(world: World) -> None:
    world.set_policies([policy("both", "a", "egress: [{toCIDR: [10.0.0.0/8]}]")])
    world.add(1)
    world.add(3)
    policies = world.maps.policies
    assert len(set(policies.of.values())) == 1
    assert len(policies.opened) == 1


def test_a_new_selector_set_is_added_to_a_policy_in_use_and_swaps_nothing(world: World) -> None:
    world.set_resolvers([RESOLVER])
    world.set_policies([POLICIES[0], POLICIES[1]])
    number = world.add(1).id
    inner, generation = world.maps.policies.of[number], world.maps.endpoints.get(101).generation
    world.learn(1, "www.example.com", INSIDE, 60)
    world.learn(1, "api.example.com", INSIDE, 60)
    assert verdict(world, 1, INSIDE) == "allow"
    assert world.maps.policies.of[number] == inner
    assert world.maps.endpoints.get(101).generation == generation


def test_what_the_kernel_learned_by_a_policy_that_is_gone_is_reachable_by_the_new_one(
    world: World,
) -> None:
    world.set_resolvers([RESOLVER])
    world.set_policies([POLICIES[0]])
    number = world.add(1).id
    former = world.firewall.learning.identity_of(number, "api.example.com")
    world.set_policies([POLICIES[1]])
    world.firewall.learning.learned_by_kernel(
        number, "api.example.com", former, [INSIDE], 60, world.now
    )
    world.pass_time(0)
    assert verdict(world, 1, INSIDE) == "allow"


def test_an_ipv6_prefix_says_nothing_of_ipv4(world: World) -> None:
    world.set_policies([policy("six", "a", "egress: [{toCIDR: ['::/0']}]")])
    world.add(1)
    assert verdict(world, 1, ip_address("2001:db8::1")) == "allow"
    assert verdict(world, 1, INSIDE) == "drop"


def test_a_prefix_of_mapped_addresses_is_no_packets(world: World) -> None:
    world.set_policies([policy("mapped", "a", "egress: [{toCIDR: ['::ffff:10.0.0.0/104']}]")])
    world.add(1)
    assert verdict(world, 1, INSIDE) == "drop"


def test_groups_of_prefixes_are_what_rules_that_name_them_mean(world: World) -> None:
    grouped = policy("grouped", "a", "egress: [{toCIDRSet: [{cidrGroupRef: ten}]}]")
    world.firewall.set_policies([grouped], ten("10.0.0.0/16"))
    world.add(1)
    assert verdict(world, 1, INSIDE) == "allow"
    world.firewall.set_policies([grouped], ten("10.7.0.0/16"))
    assert verdict(world, 1, INSIDE) == "drop"
    assert verdict(world, 1, ip_address("10.7.0.1")) == "allow"


def ten(cidr: str) -> tuple[object, ...]:
    from policies import parse_policies

    text = (
        "apiVersion: cilium.io/v2\nkind: CiliumCIDRGroup\nmetadata: {name: ten}\n"
        f"spec: {{externalCIDRs: [{cidr}]}}\n"
    )
    result = parse_policies(text, "group")
    assert not result.errors
    return result.cidr_groups


def test_at_the_nodes_scope_what_one_learned_is_open_to_another_whose_policy_names_it() -> None:
    world = World(per_endpoint=False)
    world.set_resolvers([RESOLVER])
    other = policy("other", "b", "egress: [{toFQDNs: [{matchPattern: '*.example.com'}]}]")
    world.set_policies([POLICIES[0], other])
    world.add(1)
    world.add(2)
    world.learn(1, "api.example.com", INSIDE, 60)
    assert verdict(world, 2, INSIDE) == "allow"
    identities = {
        place.identity
        for key, node in world.maps.dns_names.items()
        if key.name.startswith(b"moc\0elpmaxe\0ipa\0")
        for place in node.places[:1]
    }
    (identity,) = identities
    texts = {label.key for label in world.firewall.allocator.labels_of(identity)}
    assert {"api.example.com", "*.example.com"} <= texts, "the kernel learns for both"


def test_at_the_endpoints_scope_it_is_not() -> None:
    world = World()
    other = policy("other", "b", "egress: [{toFQDNs: [{matchPattern: '*.example.com'}]}]")
    world.set_policies([POLICIES[0], other])
    world.add(1)
    world.add(2)
    world.learn(1, "api.example.com", INSIDE, 60)
    assert verdict(world, 1, INSIDE) == "allow"
    assert verdict(world, 2, INSIDE) == "drop"
