/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * How a program ends: the packet goes on, is dropped with a reason, or goes to the proxy.
 */
#ifndef FQDNWALL_VERDICT_H
#define FQDNWALL_VERDICT_H

#include "proxy.h"

#define PASS TC_ACT_UNSPEC

static inline int drop(struct flow *flow, int reason, bool egress, u32 identity, u32 rule)
{
	count_packet(reason, flow->from_endpoint, flow->length);
	count_endpoint(flow->endpoint.id, true, flow->from_endpoint, flow->length);
	send_event(flow, EVENT_DROP, reason, egress, identity, rule, false);
	return TC_ACT_SHOT;
}

static inline int pass(struct flow *flow)
{
	count_packet(0, flow->from_endpoint, flow->length);
	count_endpoint(flow->endpoint.id, false, flow->from_endpoint, flow->length);
	return PASS;
}

static inline int to_proxy(struct __sk_buff *skb, struct flow *flow, bool ipv6, u32 identity,
			   u32 rule)
{
	int failed = assign_to_proxy(skb, flow, ipv6);

	return failed ? drop(flow, -failed, true, identity, rule) : pass(flow);
}

#endif
