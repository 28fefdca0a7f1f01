/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * One packet seen from its endpoint: the same flow has the same key whichever way the packet goes.
 */
#ifndef FQDNWALL_FLOW_H
#define FQDNWALL_FLOW_H

#include "fragment.h"

#define ICMP_ASKED_LOCALLY 1
#define ICMP_ASKED_REMOTELY 2

struct flow {
	struct ct_key key;
	struct endpoint_info endpoint;
	u32 ifindex;
	u32 length;
	u64 now; /* boot clock, ns */
	bool from_endpoint;
	u8 tcp_flags;
	u8 icmp_type;
	u8 icmp_code;
};

struct decision {
	int verdict; /* VERDICT_*, or a negative drop reason */
	u32 precedence;
	u32 identity; /* of the peer: the one that decided, else the one of its address */
	u32 rule;
	u32 ruleset; /* of DNS, for a redirect */
	u8 l4_prefix;
	bool found;
	bool learned;
};

/*
 * Where a packet's state lives while it is judged. A program's stack would hold it, but the
 * verifier follows every value that it sees on the stack along every path; what is in a map it
 * takes for unknown, and paths that differ in such values alone are checked once.
 */
struct scratch {
	struct flow flow;
	struct packet packet;
	struct decision decision;
	bool known;   /* conntrack has the flow */
	u32 exchange; /* the place of the query that a DNS answer may belong to */
};

#define SCRATCH_PACKET 0
#define SCRATCHES 2
#define SCRATCH_QUOTED 1 /* the packet that an ICMP error quotes */

BPF_PERCPU_ARRAY(scratches, struct scratch, SCRATCHES);

static inline struct scratch *scratch_of(u32 index)
{
	return scratches.lookup(&index);
}

static inline u8 icmp_initiator(struct packet *packet, bool from_endpoint)
{
	bool asks_locally = from_endpoint;

	if (!is_icmp(packet->protocol))
		return 0;
	if (is_echo_reply(packet))
		asks_locally = !from_endpoint;
	return asks_locally ? ICMP_ASKED_LOCALLY : ICMP_ASKED_REMOTELY;
}

/*
 * The type of the message that opened the flow: an echo reply belongs to a request, and every
 * other type is a flow of its own, so that none passes with the permission of another.
 */
static inline u8 icmp_type_opening(struct packet *packet)
{
	if (is_echo_reply(packet))
		return packet->protocol == IPPROTO_ICMP ? ICMP4_ECHO : ICMP6_ECHO;
	return packet->icmp_type;
}

static inline u8 icmp_type_of(struct ct_key *key)
{
	return bpf_ntohs(key->remote_port);
}

static inline void flow_from_packet(struct flow *flow, struct packet *packet)
{
	struct ct_key *key = &flow->key;

	__builtin_memset(key, 0, sizeof(*key));
	key->endpoint = flow->endpoint.id;
	key->protocol = packet->protocol;
	key->icmp_initiator = icmp_initiator(packet, flow->from_endpoint);
	flow->tcp_flags = packet->tcp_flags;
	flow->icmp_type = packet->icmp_type;
	flow->icmp_code = packet->icmp_code;
	if (flow->from_endpoint) {
		key->local = packet->source;
		key->remote = packet->destination;
		key->local_port = packet->source_port;
		key->remote_port = packet->destination_port;
	} else {
		key->local = packet->destination;
		key->remote = packet->source;
		key->local_port = packet->destination_port;
		key->remote_port = packet->source_port;
	}
	if (is_icmp(packet->protocol)) {
		/* Identifier and type stand in one place each, whoever asks. */
		key->local_port = packet->source_port;
		key->remote_port = bpf_htons(icmp_type_opening(packet));
	}
}

#endif
