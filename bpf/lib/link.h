/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What keeps the endpoint's link alive below policy: ARP, neighbour discovery and multicast
 * listener reports pass, as long as they stay on the link and the endpoint speaks for its own
 * addresses only.
 */
#ifndef FQDNWALL_LINK_H
#define FQDNWALL_LINK_H

#include "conntrack.h"

#define ARP_BODY 28
#define ARP_SENDER_IP 14
#define ARP_HARDWARE_ETHERNET 1

#define ND_ROUTER_SOLICITATION 133
#define ND_ROUTER_ADVERTISEMENT 134
#define ND_NEIGHBOUR_SOLICITATION 135
#define ND_NEIGHBOUR_ADVERTISEMENT 136
#define ND_REDIRECT 137
#define MLD_QUERY 130
#define MLD_DONE 132
#define MLD2_REPORT 143

#define FAMILY_INET6 10

static inline bool is_unspecified(struct address *address)
{
	return !(address->word[0] | address->word[1] | address->word[2] | address->word[3]);
}

static inline bool is_link_local(struct address *address)
{
	return (address->word[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

static inline bool is_multicast(struct address *address)
{
	return (address->word[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000);
}

/* ff02::/16, which no router forwards. */
static inline bool is_link_multicast(struct address *address)
{
	return (address->word[0] & bpf_htonl(0xffff0000)) == bpf_htonl(0xff020000);
}

/* Only what RFC 826 says of IPv4 on Ethernet: elsewhere the sender's address is in another place.
 */
static inline int check_arp(struct __sk_buff *skb, u32 endpoint, bool from_endpoint)
{
	struct address sender;
	u8 body[ARP_BODY];
	u32 ipv4;

	if (bpf_skb_load_bytes(skb, ETH_HEADER, body, ARP_BODY) < 0)
		return -DROP_INVALID_PACKET;
	if (FIELD(body, u16, 0) != bpf_htons(ARP_HARDWARE_ETHERNET) ||
	    FIELD(body, u16, 2) != bpf_htons(ETH_P_IP) || body[4] != 6 || body[5] != 4)
		return -DROP_INVALID_PACKET;
	if (!from_endpoint)
		return 0;
	__builtin_memcpy(&ipv4, body + ARP_SENDER_IP, sizeof(ipv4));
	map_ipv4(&sender, ipv4);
	if (ipv4 && !endpoint_owns(endpoint, &sender))
		return -DROP_INVALID_SOURCE_IP;
	return 0;
}

static inline bool is_discovery(u8 type)
{
	return type >= ND_ROUTER_SOLICITATION && type <= ND_REDIRECT;
}

static inline bool is_link_control(struct packet *packet)
{
	u8 type = packet->icmp_type;

	return packet->ipv6 && packet->protocol == IPPROTO_ICMPV6 && !packet->later_fragment &&
	       (is_discovery(type) || (type >= MLD_QUERY && type <= MLD_DONE) ||
		type == MLD2_REPORT);
}

/*
 * Whether the host would keep what the endpoint sends on its link. It would route discovery to a
 * far address as any other packet: that is for policy to judge.
 */
static inline bool stays_on_link(struct __sk_buff *skb, struct flow *flow, struct packet *packet)
{
	struct bpf_fib_lookup route = {.family = FAMILY_INET6, .ifindex = skb->ifindex};
	int result;

	if (!flow->from_endpoint || !is_discovery(packet->icmp_type) ||
	    is_link_local(&packet->destination) || is_link_multicast(&packet->destination))
		return true;
	if (is_multicast(&packet->destination))
		return false;
	__builtin_memcpy(route.ipv6_src, &packet->source, sizeof(packet->source));
	__builtin_memcpy(route.ipv6_dst, &packet->destination, sizeof(packet->destination));
	result = bpf_fib_lookup(skb, &route, sizeof(route), 0);
	if (result == BPF_FIB_LKUP_RET_NOT_FWDED || result == BPF_FIB_LKUP_RET_FWD_DISABLED)
		return true;
	return (result == BPF_FIB_LKUP_RET_SUCCESS || result == BPF_FIB_LKUP_RET_NO_NEIGH) &&
	       (route.ifindex == skb->ifindex || route.ifindex == flow->endpoint.bridge);
}

/* What RFC 4861 §7.1 and RFC 3810 §5 let a receiver believe. */
static inline bool is_from_the_link(struct packet *packet)
{
	if (packet->fragment)
		return false;
	if (is_discovery(packet->icmp_type))
		return packet->hop_limit == 255;
	return packet->hop_limit == 1 && is_multicast(&packet->destination) &&
	       (is_link_local(&packet->source) || is_unspecified(&packet->source));
}

static inline int check_link_control(struct __sk_buff *skb, struct packet *packet, u32 endpoint,
				     bool from_endpoint)
{
	u8 type = packet->icmp_type;
	struct address target;

	if (!is_from_the_link(packet))
		return -DROP_FORBIDDEN_ICMP6;
	if (!from_endpoint)
		return 0;
	if (type == ND_ROUTER_ADVERTISEMENT || type == ND_REDIRECT)
		return -DROP_FORBIDDEN_ICMP6;
	if (!is_unspecified(&packet->source) && !is_link_local(&packet->source) &&
	    !endpoint_owns(endpoint, &packet->source))
		return -DROP_INVALID_SOURCE_IP;
	if (type != ND_NEIGHBOUR_ADVERTISEMENT)
		return 0;
	if (packet->l4_offset + 8 + sizeof(target) > packet->end ||
	    bpf_skb_load_bytes(skb, packet->l4_offset + 8, &target, sizeof(target)) < 0)
		return -DROP_INVALID_PACKET;
	if (!is_link_local(&target) && !endpoint_owns(endpoint, &target))
		return -DROP_INVALID_SOURCE_IP;
	return 0;
}

#endif
