// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * DNS without user space. An endpoint's program calls these, and what they find in the scratch is
 * what it left there; they end the packet's way.
 *
 *   query  ─▶ dns_query  ─▶ noted and forwarded | turned round as a refusal | to the proxy
 *   answer ─▶ dns_answer ─▶ dns_records ─▶ dns_learn ─▶ learned, then delivered
 *                  │             └ odd, or too much ─▶ delivered truncated
 *                  └ not what was asked ─▶ dropped
 *   error  ─▶ dns_error ─▶ about a query that waits for its answer: delivered
 */
#include "lib/dns_exchange.h"
#include "lib/dns_learn.h"
#include "lib/verdict.h"

static inline bool dns_event_allowed(struct flow *flow, struct node_config *settings)
{
	struct event_budget *budget = dns_budget_of(flow->endpoint.id);
	u32 second = flow->now / NS_PER_SECOND;

	if (!budget)
		return false;
	if (budget->second != second) {
		budget->second = second;
		budget->sent = 0;
	}
	if (budget->sent >= settings->dns_events_per_second) {
		__sync_fetch_and_add(&budget->suppressed, 1);
		return false;
	}
	__sync_fetch_and_add(&budget->sent, 1);
	return true;
}

static inline void send_dns_event(struct flow *flow, struct dns_message *dns,
				  struct dns_exchange *exchange, struct node_config *settings,
				  u8 path)
{
	struct dns_event *event = &dns->event;

	count_dns(flow->endpoint.id, path);
	if (!dns_event_allowed(flow, settings))
		return;
	event->time = flow->now;
	event->latency = exchange->sent ? flow->now - exchange->sent : 0;
	event->client = flow->key.local;
	event->server = flow->key.remote;
	event->endpoint = flow->endpoint.id;
	event->scope = flow->endpoint.scope;
	event->identity = exchange->identity;
	event->rule = exchange->rule;
	event->client_port = flow->key.local_port;
	event->server_port = flow->key.remote_port;
	event->event = EVENT_DNS;
	event->path = path;
	event->qtype = dns->type;
	event->rcode = dns->flags & DNS_RCODE;
	event->name_size = dns->name_size;
	__builtin_memcpy(event->name, dns->key.name, sizeof(event->name));
	if (event->count > DNS_ADDRESSES_FEW)
		event_output(event, sizeof(*event));
	else
		event_output(event, DNS_EVENT_FEW_SIZE);
}

static inline int ask_proxy(struct __sk_buff *skb, struct scratch *scratch, u8 path)
{
	struct decision *decision = &scratch->decision;
	struct flow *flow = &scratch->flow;
	int failed;

	count_dns(flow->endpoint.id, path);
	if (!scratch->known) {
		failed = ct_create(flow, decision, CT_PROXY);
		if (failed)
			return drop(flow, -failed, true, decision->identity, decision->rule);
	}
	return to_proxy(skb, flow, scratch->packet.ipv6, decision->identity, decision->rule);
}

/* What the tree says of the name: the deepest node decides. */
static inline struct dns_place *find_place(struct dns_message *dns, u32 ruleset)
{
	struct dns_node *node;
	u32 below;

	dns->key.ruleset = ruleset;
	node = name_lookup(&dns->key);
	if (!node)
		return NULL;
	below = dns->labels - node->labels;
	if (below == 0)
		return &node->places[0];
	return below == 1 ? &node->places[1] : &node->places[2];
}

static inline int refuse(struct __sk_buff *skb, struct scratch *scratch, struct dns_message *dns,
			 struct node_config *settings)
{
	struct dns_reply *reply = dns_reply();
	struct flow *flow = &scratch->flow;
	u16 flags = DNS_QR | (dns->flags & (DNS_RD | DNS_CD)) | DNS_RA | settings->dns_refusal;

	if (!reply || !dns_build(skb, dns, reply, flags, true) ||
	    !dns_send(skb, &scratch->packet, reply, true))
		return drop(flow, DROP_INVALID_PACKET, true, 0, 0);
	__builtin_memset(&dns->exchange, 0, sizeof(dns->exchange));
	dns->flags = flags;
	dns->event.count = 0;
	dns->event.ttl = 0;
	send_dns_event(flow, dns, &dns->exchange, settings, DNS_PATH_REFUSED);
	count_packet(0, true, flow->length);
	count_endpoint(flow->endpoint.id, false, true, flow->length);
	skb->mark = (skb->mark & ~MARK_MASK) | MARK_FROM_PROXY;
	return bpf_redirect(skb->ifindex, 0);
}

int dns_query(struct __sk_buff *skb)
{
	struct scratch *scratch = scratch_of(SCRATCH_PACKET);
	struct node_config *settings = node_config();
	struct dns_message *dns = dns_message();
	struct dns_place *place;

	if (!scratch || !settings || !dns)
		return TC_ACT_SHOT;
	if (!is_plain(&scratch->packet) || !dns_read_query(skb, &scratch->packet, dns))
		return ask_proxy(skb, scratch, DNS_PATH_ODD);
	place = find_place(dns, scratch->decision.ruleset);
	if (!place)
		return ask_proxy(skb, scratch, DNS_PATH_NO_TREE);
	if (place->action == DNS_ALLOW) {
		if (!note_exchange(&scratch->flow, dns, place))
			return ask_proxy(skb, scratch, DNS_PATH_CROWDED);
		count_dns(scratch->flow.endpoint.id, DNS_PATH_ALLOWED);
		return pass(&scratch->flow);
	}
	if (place->action == DNS_REFUSE && !(scratch->flow.endpoint.flags & EP_AUDIT))
		return refuse(skb, scratch, dns, settings);
	return ask_proxy(skb, scratch, DNS_PATH_UNDECIDED);
}

/*
 * The same answer with its sections emptied: the client asks again over TCP, by the proxy. Of an
 * answer in fragments only the first becomes one, and the others are dropped.
 */
static inline int truncate(struct __sk_buff *skb, struct scratch *scratch, struct dns_message *dns,
			   struct node_config *settings)
{
	struct dns_reply *reply = dns_reply();
	struct flow *flow = &scratch->flow;

	dns->edns = dns->exchange.edns;
	dns->dnssec_ok = dns->exchange.dnssec_ok;
	if (!reply || !dns_build(skb, dns, reply, dns->flags | DNS_TC, false) ||
	    !dns_send(skb, &scratch->packet, reply, false))
		return drop(flow, DROP_INVALID_PACKET, true, 0, 0);
	dns->event.count = 0;
	dns->event.ttl = 0;
	send_dns_event(flow, dns, &dns->exchange, settings, DNS_PATH_TRUNCATED);
	return pass(flow);
}

static inline u32 bounded_ttl(struct node_config *settings, u32 ttl)
{
	if (ttl < settings->dns_min_ttl_seconds)
		ttl = settings->dns_min_ttl_seconds;
	return ttl > settings->dns_max_ttl_seconds ? settings->dns_max_ttl_seconds : ttl;
}

/* Some of the addresses; false when one finds no place. */
static inline bool learn_some(struct flow *flow, struct dns_message *dns, struct dns_reader *reader,
			      u32 ttl)
{
	struct dns_learned *wanted = &reader->wanted;
	u32 at;

	wanted->identity = dns->exchange.identity;
	wanted->endpoint = flow->endpoint.id;
	wanted->expires = flow->now + ttl * NS_PER_SECOND;
	for (int i = 0; i < DNS_LEARN_AT_ONCE; i++) {
		reload();
		at = masked(reader->learned, DNS_ADDRESSES_MAX - 1);
		if (reader->learned >= reader->count)
			break;
		wanted->address = reader->addresses[at];
		dns->event.addresses[at].address = wanted->address;
		if (wanted->identity && !learn(&dns->search, flow, wanted))
			return false;
		reader->learned++;
	}
	return true;
}

int dns_answer(struct __sk_buff *skb)
{
	struct scratch *scratch = scratch_of(SCRATCH_PACKET);
	struct node_config *settings = node_config();
	struct dns_message *dns = dns_message();
	struct dns_reader *reader = dns_reader();
	struct flow *flow;

	if (!scratch || !settings || !dns || !reader)
		return TC_ACT_SHOT;
	flow = &scratch->flow;
	if (!dns_read_header(skb, &scratch->packet, dns) ||
	    (dns->flags & (DNS_QR | DNS_OPCODE)) != DNS_QR || !dns_read_question(skb, dns) ||
	    !take_exchange(scratch, dns)) {
		count_dns(flow->endpoint.id, DNS_PATH_UNMATCHED);
		return drop(flow, DROP_PROXY_SPOOFED, true, 0, 0);
	}
	if (dns->cut)
		return truncate(skb, scratch, dns, settings);
	/* No address is in such an answer, whatever its other sections say. */
	if (dns->flags & DNS_RCODE || !dns->answers) {
		dns->event.count = 0;
		dns->event.ttl = 0;
		send_dns_event(flow, dns, &dns->exchange, settings, DNS_PATH_ANSWERED);
		return pass(flow);
	}
	start_reader(dns, reader);
	call(skb, CALL_DNS_RECORDS);
	return drop(flow, DROP_MISSED_TAIL_CALL, true, 0, 0);
}

int dns_records(struct __sk_buff *skb)
{
	struct scratch *scratch = scratch_of(SCRATCH_PACKET);
	struct node_config *settings = node_config();
	struct dns_message *dns = dns_message();
	struct dns_reader *reader = dns_reader();

	if (!scratch || !settings || !dns || !reader)
		return TC_ACT_SHOT;
	switch (dns_read_records(skb, dns, reader)) {
	case READ_MORE:
		call(skb, CALL_DNS_RECORDS);
		break;
	case READ_ALL:
		call(skb, CALL_DNS_LEARN);
		break;
	default:
		return truncate(skb, scratch, dns, settings);
	}
	return drop(&scratch->flow, DROP_MISSED_TAIL_CALL, true, 0, 0);
}

int dns_learn(struct __sk_buff *skb)
{
	struct scratch *scratch = scratch_of(SCRATCH_PACKET);
	struct node_config *settings = node_config();
	struct dns_message *dns = dns_message();
	struct dns_reader *reader = dns_reader();
	u32 ttl;

	if (!scratch || !settings || !dns || !reader)
		return TC_ACT_SHOT;
	ttl = bounded_ttl(settings, reader->ttl);
	if (!learn_some(&scratch->flow, dns, reader, ttl))
		return truncate(skb, scratch, dns, settings);
	if (reader->learned < reader->count) {
		call(skb, CALL_DNS_LEARN);
		return drop(&scratch->flow, DROP_MISSED_TAIL_CALL, true, 0, 0);
	}
	dns->event.count = reader->count;
	dns->event.ttl = reader->count ? ttl : 0;
	send_dns_event(&scratch->flow, dns, &dns->exchange, settings, DNS_PATH_ANSWERED);
	return pass(&scratch->flow);
}

/* Policy does not let this ICMP error in; but a query that the kernel has let out is in no flow. */
int dns_error(struct __sk_buff *skb)
{
	struct scratch *scratch = scratch_of(SCRATCH_PACKET);
	struct scratch *quoted = scratch_of(SCRATCH_QUOTED);
	struct decision *decision;

	if (!scratch || !quoted)
		return TC_ACT_SHOT;
	if (dns_expects(skb, quoted))
		return pass(&scratch->flow);
	decision = &scratch->decision;
	return drop(&scratch->flow, -decision->verdict, false, decision->identity, decision->rule);
}
