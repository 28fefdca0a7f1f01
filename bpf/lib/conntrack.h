/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Conntrack: one entry a flow, for both of its directions, holding the verdict with the policy
 * generation it was found under. An established flow costs this one lookup.
 */
#ifndef FQDNWALL_CONNTRACK_H
#define FQDNWALL_CONNTRACK_H

#include "policy.h"

#define TCP_LIFETIME_SECONDS 8000
#define SYN_LIFETIME_SECONDS 60
#define CLOSING_LIFETIME_SECONDS 10
#define OTHER_LIFETIME_SECONDS 60
#define CT_CLOSING (CT_LOCAL_CLOSING | CT_REMOTE_CLOSING)

/* A packet in the direction in which the flow was opened. */
static inline bool is_forward(struct flow *flow, u32 ct_flags)
{
	return flow->from_endpoint == !(ct_flags & CT_INGRESS);
}

static inline u64 lifetime(struct flow *flow, u32 ct_flags)
{
	u32 seconds = OTHER_LIFETIME_SECONDS;

	if (flow->key.protocol == IPPROTO_TCP) {
		seconds = TCP_LIFETIME_SECONDS;
		if ((ct_flags & CT_CLOSING) == CT_CLOSING)
			seconds = CLOSING_LIFETIME_SECONDS;
		else if (!(ct_flags & CT_SEEN_NON_SYN))
			seconds = SYN_LIFETIME_SECONDS;
	}
	return seconds * NS_PER_SECOND;
}

/* Policy no longer allows the flow, and has not changed since that was found. */
static inline bool is_cut(struct flow *flow, struct ct_value *ct)
{
	return ct->flags & CT_DENIED && ct->generation == flow->endpoint.generation;
}

/*
 * Whether the packet belongs to the flow of the entry, or opens another one with the same
 * addresses and ports: the entry has run out, or this is a SYN and no mere repetition of the one
 * that opened the flow. A new connection is judged as one, whichever side reuses the ports.
 */
static inline bool continues(struct flow *flow, struct ct_value *ct)
{
	bool syn = (flow->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;

	if (ct->expires <= flow->now)
		return false;
	if (flow->key.protocol != IPPROTO_TCP || !syn)
		return true;
	return !(ct->flags & (CT_CLOSING | CT_SEEN_NON_SYN)) && is_forward(flow, ct->flags);
}

static inline u32 closing_flags(struct flow *flow, u32 ct_flags)
{
	if (flow->tcp_flags & TCP_RST)
		return CT_CLOSING;
	if (flow->tcp_flags & TCP_FIN)
		return flow->from_endpoint ? CT_LOCAL_CLOSING : CT_REMOTE_CLOSING;
	return 0;
}

/* Counts the packet and moves the TCP state; says whether the flow has just ended. */
static inline bool ct_advance(struct flow *flow, struct ct_value *ct)
{
	u32 before = ct->flags;
	u32 flags = before | closing_flags(flow, before);

	if (flow->tcp_flags && !(flow->tcp_flags & TCP_SYN))
		flags |= CT_SEEN_NON_SYN;
	if (flow->from_endpoint) {
		ct->tx_packets++;
		ct->tx_bytes += flow->length;
		ct->tx_tcp_flags |= flow->tcp_flags;
	} else {
		ct->rx_packets++;
		ct->rx_bytes += flow->length;
		ct->rx_tcp_flags |= flow->tcp_flags;
	}
	ct->flags = flags;
	/* What follows the end does not keep it alive. */
	if ((before & CT_CLOSING) != CT_CLOSING)
		ct->expires = flow->now + lifetime(flow, flags);
	return (before & CT_CLOSING) != CT_CLOSING && (flags & CT_CLOSING) == CT_CLOSING;
}

/* What a decision leaves in the entry of its flow. */
static inline u32 decision_flags(struct decision *decision, bool audited)
{
	return (decision->learned ? CT_LEARNED : 0) |
	       (decision->verdict == VERDICT_REDIRECT ? CT_PROXY : 0) | (audited ? CT_AUDITED : 0);
}

static inline int ct_create(struct flow *flow, struct decision *decision, u32 flags)
{
	struct ct_value ct = {
		.created = flow->now,
		.generation = flow->endpoint.generation,
		.identity = decision->identity,
		.rule = decision->rule,
		.ruleset = decision->ruleset,
		.last_event = flow->now / NS_PER_SECOND,
		.flags = flags,
	};

	ct_advance(flow, &ct);
	return ct_store(&flow->key, &ct) ? -DROP_CT_CREATE_FAILED : 0;
}

#define ICMP4_UNREACHABLE 3
#define ICMP4_TIME_EXCEEDED 11
#define ICMP4_PARAMETER 12
#define ICMP6_ERROR_FIRST 1
#define ICMP6_ERROR_LAST 4

static inline bool is_icmp_error(struct packet *packet)
{
	if (packet->fragment)
		return false;
	if (packet->protocol == IPPROTO_ICMP)
		return packet->icmp_type == ICMP4_UNREACHABLE ||
		       packet->icmp_type == ICMP4_TIME_EXCEEDED ||
		       packet->icmp_type == ICMP4_PARAMETER;
	return packet->protocol == IPPROTO_ICMPV6 && packet->icmp_type >= ICMP6_ERROR_FIRST &&
	       packet->icmp_type <= ICMP6_ERROR_LAST;
}

/* The first eight octets behind the inner header: all that an error need quote. */
static inline int read_quoted_l4(struct __sk_buff *skb, struct packet *inner)
{
	u8 header[8];

	inner->source_port = 0;
	inner->destination_port = 0;
	inner->tcp_flags = 0;
	inner->icmp_type = 0;
	inner->icmp_code = 0;
	if (inner->later_fragment || inner->l4_offset + 8 > inner->end ||
	    bpf_skb_load_bytes(skb, inner->l4_offset, header, 8) < 0)
		return -DROP_CT_INVALID_HEADER;
	if (is_icmp(inner->protocol)) {
		inner->icmp_type = header[0];
		inner->icmp_code = header[1];
		if (is_echo_request(inner) || is_echo_reply(inner))
			inner->source_port = FIELD(header, u16, 4);
	} else if (inner->protocol == IPPROTO_TCP || inner->protocol == IPPROTO_UDP ||
		   inner->protocol == IPPROTO_SCTP) {
		inner->source_port = FIELD(header, u16, 0);
		inner->destination_port = FIELD(header, u16, 2);
	}
	return 0;
}

/*
 * The entry of the flow that an ICMP error speaks of, by the header it quotes: a packet that the
 * error's receiver sent, in a flow that is known. That packet was judged by the policy of now, or
 * the error is not about it.
 */
static inline struct ct_value *related_entry(struct __sk_buff *skb, struct flow *flow,
					     struct packet *outer)
{
	struct scratch *scratch = scratch_of(SCRATCH_QUOTED);
	struct packet *inner;
	struct ct_value *ct;
	u32 offset = outer->l4_offset + 8;
	int failed;

	if (!is_icmp_error(outer) || !scratch)
		return NULL;
	inner = &scratch->packet;
	failed = outer->ipv6 ? read_ipv6(skb, offset, inner) : read_ipv4(skb, offset, inner);
	inner->end = outer->end; /* the quotation is cut short: its own length is no matter */
	if (failed || !same_address(&inner->source, &outer->destination) ||
	    read_quoted_l4(skb, inner))
		return NULL;
	scratch->flow.endpoint.id = flow->endpoint.id;
	scratch->flow.from_endpoint = !flow->from_endpoint;
	flow_from_packet(&scratch->flow, inner);
	outer->quotes = true;
	ct = ct_find(&scratch->flow.key);
	if (!ct || ct->expires <= flow->now || ct->flags & CT_DENIED ||
	    ct->generation != flow->endpoint.generation)
		return NULL;
	return ct;
}

#endif
