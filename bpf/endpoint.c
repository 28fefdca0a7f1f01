// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The two programs of an endpoint, on the host's side of its interface:
 *
 *   endpoint ──▶ from_endpoint (tc ingress) ──▶ the host's stack, or the DNS proxy's socket
 *   endpoint ◀── to_endpoint   (tc egress)  ◀── the host's stack
 *
 * A packet that conntrack knows passes by that one lookup. Another is judged by policy in the
 * direction in which it opens the flow. Whatever cannot be read or looked up is dropped with a
 * reason. A packet that passes goes on to whatever program or stack comes next.
 */
#include "lib/dns_exchange.h"
#include "lib/link.h"
#include "lib/offload.h"
#include "lib/verdict.h"

static inline bool is_policy_drop(int verdict)
{
	return verdict == -DROP_POLICY_DENIED || verdict == -DROP_POLICY_DENY ||
	       verdict == -DROP_ENDPOINT_NOT_READY;
}

/* In audit mode a refusal is reported and passes. */
static inline bool audits(struct flow *flow, int verdict)
{
	return flow->endpoint.flags & EP_AUDIT && is_policy_drop(verdict);
}

/* Policy has changed since the flow was let in: the same question again. */
static inline int judge_again(struct scratch *scratch, struct ct_value *ct)
{
	struct decision *decision = &scratch->decision;
	struct flow *flow = &scratch->flow;
	bool egress = !(ct->flags & CT_INGRESS);
	bool audited;

	if (is_icmp(flow->key.protocol))
		flow->icmp_type = icmp_type_of(&flow->key);
	decide(flow, egress, ct->flags & CT_LEARNED ? ct->identity : 0, decision);
	audited = audits(flow, decision->verdict);
	ct->generation = flow->endpoint.generation;
	if (decision->verdict < 0 && !audited) {
		ct->flags |= CT_DENIED;
		return drop(flow, -decision->verdict, egress, decision->identity, decision->rule);
	}
	if (audited)
		send_event(flow, EVENT_DROP, -decision->verdict, egress, decision->identity,
			   decision->rule, true);
	ct->flags &= ~(CT_DENIED | CT_PROXY | CT_AUDITED);
	ct->flags |= decision_flags(decision, audited);
	ct->rule = decision->rule;
	ct->ruleset = decision->ruleset;
	/* The name that let the flow in stays known while another entry decides. */
	if (decision->learned || !(ct->flags & CT_LEARNED))
		ct->identity = decision->identity;
	return PASS;
}

static inline int known_flow(struct __sk_buff *skb, struct scratch *scratch, struct ct_value *ct)
{
	struct packet *packet = &scratch->packet;
	struct flow *flow = &scratch->flow;
	bool egress = !(ct->flags & CT_INGRESS);
	u32 second = flow->now / NS_PER_SECOND;
	struct node_config *settings;
	bool ended;

	if (is_cut(flow, ct) && !is_forward(flow, ct->flags))
		return drop(flow, DROP_POLICY_DENIED, egress, ct->identity, ct->rule);
	/* An address that is learned meanwhile opens a flow that was cut. */
	if ((ct->generation != flow->endpoint.generation || is_cut(flow, ct)) &&
	    judge_again(scratch, ct) != PASS)
		return TC_ACT_SHOT;
	if (ct->flags & CT_PROXY && !flow->from_endpoint &&
	    (skb->mark & MARK_MASK) != MARK_FROM_PROXY) {
		if (dns_expects(skb, scratch))
			call(skb, CALL_DNS_ANSWER);
		if (redirect_upstream(skb, packet))
			return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
		return drop(flow, DROP_PROXY_SPOOFED, egress, ct->identity, ct->rule);
	}
	if (ct->flags & CT_PROXY && flow->from_endpoint && packet->fragment)
		return drop(flow, DROP_FRAGMENT_NOT_SUPPORTED, egress, ct->identity, ct->rule);
	ended = ct_advance(flow, ct);
	settings = node_config();
	if (ended || (settings && second - ct->last_event >= settings->trace_interval_seconds)) {
		ct->last_event = second;
		send_event(flow, EVENT_TRACE,
			   ended			 ? CT_STATE_CLOSED
			   : is_forward(flow, ct->flags) ? CT_STATE_ESTABLISHED
							 : CT_STATE_REPLY,
			   egress, ct->identity, ct->rule, false);
	}
	if (ct->flags & CT_PROXY && flow->from_endpoint) {
		scratch->known = true;
		scratch->decision.identity = ct->identity;
		scratch->decision.rule = ct->rule;
		scratch->decision.ruleset = ct->ruleset;
		try_kernel_dns(skb, scratch);
		return to_proxy(skb, flow, packet->ipv6, ct->identity, ct->rule);
	}
	return pass(flow);
}

/*
 * Whether what the endpoint sends on this flow is DNS that policy has rules for. Such a flow is the
 * endpoint's to begin: were one kept that the server began (by an answer too many, say), the
 * queries on it would pass as replies.
 */
static inline bool carries_queries(struct flow *flow)
{
	struct scratch *other = scratch_of(SCRATCH_QUOTED);

	if (flow->key.protocol != IPPROTO_UDP || !other)
		return false;
	decide(flow, true, 0, &other->decision);
	return other->decision.verdict == VERDICT_REDIRECT;
}

static inline int new_flow(struct __sk_buff *skb, struct scratch *scratch)
{
	struct decision *decision = &scratch->decision;
	struct packet *packet = &scratch->packet;
	struct flow *flow = &scratch->flow;
	bool egress = flow->from_endpoint;
	bool owned = endpoint_owns(flow->endpoint.id, &flow->key.local);
	struct ct_value *related;
	bool audited;
	int failed;

	if (egress && !owned)
		return drop(flow, DROP_INVALID_SOURCE_IP, egress, 0, 0);
	if (!egress) {
		if ((skb->mark & MARK_MASK) == MARK_FROM_PROXY)
			return pass(flow);
		if (dns_expects(skb, scratch))
			call(skb, CALL_DNS_ANSWER);
		if (redirect_upstream(skb, packet))
			return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
	}
	related = related_entry(skb, flow, packet);
	if (related) {
		send_event(flow, EVENT_TRACE, CT_STATE_RELATED, egress, related->identity,
			   related->rule, false);
		return pass(flow);
	}
	decide(flow, egress, 0, decision);
	if (decision->found)
		count_rule(flow->endpoint.id, decision->rule, flow->length);
	audited = audits(flow, decision->verdict);
	if (decision->verdict < 0 && !audited) {
		if (packet->quotes && !egress)
			call(skb, CALL_DNS_ERROR);
		return drop(flow, -decision->verdict, egress, decision->identity, decision->rule);
	}
	if (audited)
		send_event(flow, EVENT_DROP, -decision->verdict, egress, decision->identity,
			   decision->rule, true);
	if (decision->verdict == VERDICT_REDIRECT) {
		if (packet->fragment)
			return drop(flow, DROP_FRAGMENT_NOT_SUPPORTED, egress, decision->identity,
				    decision->rule);
		try_kernel_dns(skb, scratch);
	}
	/*
	 * Packet by packet are judged those to group and broadcast addresses, whose replies nobody
	 * owns, echo replies to no request, which must not open the way for one, and what a DNS
	 * server sends unasked.
	 */
	if (owned && !is_echo_reply(packet) && (egress || !carries_queries(flow))) {
		failed = ct_create(flow, decision,
				   decision_flags(decision, audited) | (egress ? 0 : CT_INGRESS));
		if (failed)
			return drop(flow, -failed, egress, decision->identity, decision->rule);
	}
	if (!audited)
		send_event(flow, EVENT_POLICY_VERDICT, decision->verdict, egress,
			   decision->identity, decision->rule, false);
	if (decision->verdict == VERDICT_REDIRECT)
		return to_proxy(skb, flow, packet->ipv6, decision->identity, decision->rule);
	return pass(flow);
}

static inline int read_packet(struct __sk_buff *skb, struct packet *packet, u32 endpoint)
{
	int failed;

	if (skb->protocol == bpf_htons(ETH_P_IP))
		failed = read_ipv4(skb, ETH_HEADER, packet);
	else
		failed = read_ipv6(skb, ETH_HEADER, packet);
	if (!failed && (packet->end > skb->len || packet->l4_offset > packet->end))
		failed = -DROP_INVALID_PACKET;
	if (!failed && !packet->later_fragment)
		failed = read_l4(skb, packet);
	if (!failed && packet->fragment)
		failed = track_fragment(packet, endpoint);
	return failed;
}

static inline int handle_ip(struct __sk_buff *skb, struct scratch *scratch)
{
	struct packet *packet = &scratch->packet;
	struct flow *flow = &scratch->flow;
	struct ct_value *ct;
	int failed;

	failed = read_packet(skb, packet, flow->endpoint.id);
	if (!failed && flow->from_endpoint)
		failed = check_offload(skb, packet);
	flow_from_packet(flow, packet);
	if (failed)
		return drop(flow, -failed, flow->from_endpoint, 0, 0);
	if (flow->from_endpoint && (skb->mark & MARK_MASK) == MARK_UPSTREAM) {
		failed = assign_upstream(skb, packet);
		return failed ? drop(flow, -failed, true, 0, 0) : pass(flow);
	}
	/* Marks are the host's: what an endpoint sends brings none of ours along. */
	if (flow->from_endpoint && skb->mark & MARK_MASK)
		skb->mark &= ~MARK_MASK;
	if (is_link_control(packet) && stays_on_link(skb, flow, packet)) {
		failed = check_link_control(skb, packet, flow->endpoint.id, flow->from_endpoint);
		return failed ? drop(flow, -failed, flow->from_endpoint, 0, 0) : pass(flow);
	}
	ct = ct_find(&flow->key);
	if (ct && continues(flow, ct))
		return known_flow(skb, scratch, ct);
	return new_flow(skb, scratch);
}

static inline int handle(struct __sk_buff *skb, bool from_endpoint)
{
	struct endpoint_info *endpoint = endpoint_lookup(skb->ifindex);
	struct scratch *scratch = scratch_of(SCRATCH_PACKET);
	struct flow *flow;
	int failed;

	if (!endpoint || !scratch) {
		count_packet(DROP_ENDPOINT_NOT_READY, from_endpoint, skb->len);
		return TC_ACT_SHOT;
	}
	flow = &scratch->flow;
	__builtin_memset(scratch, 0, sizeof(*scratch));
	flow->endpoint = *endpoint;
	flow->ifindex = skb->ifindex;
	flow->length = skb->len;
	flow->now = bpf_ktime_get_boot_ns();
	flow->from_endpoint = from_endpoint;
	if (skb->vlan_present)
		return drop(flow, DROP_VLAN_FILTERED, from_endpoint, 0, 0);
	switch (bpf_ntohs(skb->protocol)) {
	case ETH_P_IP:
	case ETH_P_IPV6:
		return handle_ip(skb, scratch);
	case ETH_P_ARP:
		failed = check_arp(skb, flow->endpoint.id, from_endpoint);
		if (!failed && from_endpoint && has_offload(skb))
			failed = -DROP_INVALID_PACKET;
		return failed ? drop(flow, -failed, from_endpoint, 0, 0) : pass(flow);
	}
	return drop(flow, DROP_UNKNOWN_L3, from_endpoint, 0, 0);
}

int from_endpoint(struct __sk_buff *skb)
{
	return handle(skb, true);
}

int to_endpoint(struct __sk_buff *skb)
{
	return handle(skb, false);
}
