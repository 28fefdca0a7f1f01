/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Records for the ring buffer. An endpoint may send only so many a second, so that a flood of
 * drops costs counters and not the agent's time; what is held back is counted.
 */
#ifndef FQDNWALL_EVENTS_H
#define FQDNWALL_EVENTS_H

#include "flow.h"

#define NS_PER_SECOND 1000000000ULL

static inline bool event_allowed(struct flow *flow)
{
	struct node_config *settings = node_config();
	struct event_budget *budget = budget_of(flow->endpoint.id);
	u32 second = flow->now / NS_PER_SECOND;

	if (!settings || !budget)
		return false;
	if (budget->second != second) {
		budget->second = second;
		budget->sent = 0;
	}
	if (budget->sent >= settings->events_per_second) {
		__sync_fetch_and_add(&budget->suppressed, 1);
		return false;
	}
	__sync_fetch_and_add(&budget->sent, 1);
	return true;
}

static inline void send_event(struct flow *flow, u8 type, u8 reason, bool egress_flow,
			      u32 remote_identity, u32 rule, bool audited)
{
	struct event *event;

	if (!event_allowed(flow))
		return;
	event = event_reserve();
	if (!event)
		return;
	__builtin_memset(event, 0, sizeof(*event));
	event->time = flow->now;
	event->local = flow->key.local;
	event->remote = flow->key.remote;
	event->endpoint = flow->endpoint.id;
	event->local_identity = flow->endpoint.identity;
	event->remote_identity = remote_identity;
	event->rule = rule;
	event->ifindex = flow->ifindex;
	event->length = flow->length;
	event->local_port = flow->key.local_port;
	event->remote_port = flow->key.remote_port;
	event->type = type;
	event->reason = reason;
	event->direction = egress_flow;
	event->from_endpoint = flow->from_endpoint;
	event->protocol = flow->key.protocol;
	event->tcp_flags = flow->tcp_flags;
	event->icmp_type = flow->icmp_type;
	event->icmp_code = flow->icmp_code;
	event->audited = audited;
	event_submit(event);
}

#endif
