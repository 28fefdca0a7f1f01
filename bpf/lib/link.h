/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What keeps the endpoint's link alive below policy: ARP and neighbour discovery pass, as long as
 * the endpoint speaks for its own addresses only.
 */
#ifndef FQDNWALL_LINK_H
#define FQDNWALL_LINK_H

#include "conntrack.h"

#define ARP_BODY 28
#define ARP_SENDER_IP 14

#define ND_ROUTER_SOLICITATION 133
#define ND_ROUTER_ADVERTISEMENT 134
#define ND_NEIGHBOUR_SOLICITATION 135
#define ND_NEIGHBOUR_ADVERTISEMENT 136
#define ND_REDIRECT 137
#define MLD_QUERY 130
#define MLD_DONE 132
#define MLD2_REPORT 143

static inline bool is_unspecified(struct address *address)
{
	return !(address->word[0] | address->word[1] | address->word[2] | address->word[3]);
}

static inline bool is_link_local(struct address *address)
{
	return (address->word[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

static inline int check_arp(struct __sk_buff *skb, u32 endpoint, bool from_endpoint)
{
	struct address sender;
	u8 body[ARP_BODY];
	u32 ipv4;

	if (bpf_skb_load_bytes(skb, ETH_HEADER, body, ARP_BODY) < 0)
		return -DROP_INVALID_PACKET;
	if (!from_endpoint)
		return 0;
	__builtin_memcpy(&ipv4, body + ARP_SENDER_IP, sizeof(ipv4));
	map_ipv4(&sender, ipv4);
	if (ipv4 && !endpoint_owns(endpoint, &sender))
		return -DROP_INVALID_SOURCE_IP;
	return 0;
}

static inline bool is_link_control(struct packet *packet)
{
	u8 type = packet->icmp_type;

	return packet->protocol == IPPROTO_ICMPV6 && !packet->later_fragment &&
	       ((type >= ND_ROUTER_SOLICITATION && type <= ND_REDIRECT) ||
		(type >= MLD_QUERY && type <= MLD_DONE) || type == MLD2_REPORT);
}

/* RFC 4861 §7.1: hop limit 255 proves that the sender is on the link; MLD travels with 1. */
static inline int check_link_control(struct __sk_buff *skb, struct packet *packet, u32 endpoint,
				     bool from_endpoint)
{
	u8 type = packet->icmp_type;
	bool discovery = type >= ND_ROUTER_SOLICITATION && type <= ND_REDIRECT;
	struct address target;

	if (packet->fragment || packet->hop_limit != (discovery ? 255 : 1))
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
	if (bpf_skb_load_bytes(skb, packet->l4_offset + 8, &target, sizeof(target)) < 0)
		return -DROP_INVALID_PACKET;
	if (!is_link_local(&target) && !endpoint_owns(endpoint, &target))
		return -DROP_INVALID_SOURCE_IP;
	return 0;
}

#endif
