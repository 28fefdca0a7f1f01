/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Access to the maps, and the only place where bcc's rewritten map syntax stands: every other
 * header calls the accessors below. The maps themselves are declared in layouts.h.
 */
#ifndef FQDNWALL_MAPS_H
#define FQDNWALL_MAPS_H

#include "layouts.h"

/* Goes on in another program; returns only if that cannot be. */
static inline void call(struct __sk_buff *skb, u32 program)
{
	calls.call(skb, program);
}

static inline struct node_config *node_config(void)
{
	u32 zero = 0;

	return config.lookup(&zero);
}

static inline struct endpoint_info *endpoint_lookup(u32 ifindex)
{
	return endpoints.lookup(&ifindex);
}

static inline bool endpoint_owns(u32 endpoint, struct address *address)
{
	struct endpoint_address key = {.endpoint = endpoint, .address = *address};

	return endpoint_ips.lookup(&key) != NULL;
}

static inline struct ipcache_value *ipcache_lookup(struct address *address)
{
	struct ipcache_key key = {.prefix_length = 128, .address = *address};

	return ipcache.lookup(&key);
}

static inline struct learned_value *learned_lookup(u32 scope, struct address *address)
{
	struct learned_key key = {.scope = scope, .address = *address};

	return learned.lookup(&key);
}

static inline struct dns_learned *answer_at(u32 scope, u32 place)
{
	struct place_key key = {.owner = scope, .place = place};

	return answers.lookup(&key);
}

/* 0 for the one who made the entry; an error: another was faster, or no room. */
static inline int answer_add(u32 scope, u32 place, struct dns_learned *value)
{
	struct place_key key = {.owner = scope, .place = place};

	return answers.insert(&key, value);
}

static inline int answer_put(u32 scope, u32 place, struct dns_learned *value)
{
	struct place_key key = {.owner = scope, .place = place};

	return answers.update(&key, value);
}

static inline void answer_remove(u32 scope, u32 place)
{
	struct place_key key = {.owner = scope, .place = place};

	answers.delete(&key);
}

static inline struct dns_node *name_lookup(struct dns_name_key *key)
{
	return dns_names.lookup(key);
}

static inline struct dns_exchange *exchange_at(u32 endpoint, u32 place)
{
	struct place_key key = {.owner = endpoint, .place = place};

	return dns_exchanges.lookup(&key);
}

/* 0 for the one who made the entry. */
static inline int exchange_add(u32 endpoint, u32 place, struct dns_exchange *value)
{
	struct place_key key = {.owner = endpoint, .place = place};

	return dns_exchanges.insert(&key, value);
}

static inline int exchange_put(u32 endpoint, u32 place, struct dns_exchange *value)
{
	struct place_key key = {.owner = endpoint, .place = place};

	return dns_exchanges.update(&key, value);
}

/* 0 for the one who removed it. */
static inline int exchange_remove(u32 endpoint, u32 place)
{
	struct place_key key = {.owner = endpoint, .place = place};

	return dns_exchanges.delete(&key);
}

static inline void count_dns(u32 endpoint, u32 path)
{
	struct dns_stats_key key = {.endpoint = endpoint, .path = path};
	u64 one = 1;
	u64 *count = dns_stats.lookup(&key);

	if (count)
		(*count)++;
	else
		dns_stats.update(&key, &one);
}

static inline void *policy_of(u32 endpoint)
{
	return policies.lookup(&endpoint);
}

static inline struct policy_value *policy_entry(void *policy, struct policy_key *key)
{
	return bpf_map_lookup_elem_((uintptr_t)policy, key);
}

static inline struct ct_value *ct_find(struct ct_key *key)
{
	return conntrack.lookup(key);
}

static inline int ct_store(struct ct_key *key, struct ct_value *value)
{
	return conntrack.update(key, value);
}

static inline void ct_remove(struct ct_key *key)
{
	conntrack.delete(key);
}

static inline struct fragment_value *fragment_find(struct fragment_key *key)
{
	return fragments.lookup(key);
}

static inline int fragment_store(struct fragment_key *key, struct fragment_value *value)
{
	return fragments.update(key, value);
}

static inline void count_rule(u32 endpoint, u32 rule, u32 length)
{
	struct rule_key key = {.endpoint = endpoint, .rule = rule};
	struct counter one = {.packets = 1, .bytes = length};
	struct counter *counter = rule_stats.lookup(&key);

	if (counter) {
		counter->packets++;
		counter->bytes += length;
	} else {
		rule_stats.update(&key, &one);
	}
}

/* Direction 0 is to the endpoint, 1 from it; reason 0 counts what was forwarded. */
static inline void count_packet(u8 reason, bool from_endpoint, u32 length)
{
	u32 index = (u32)reason * 2 + from_endpoint;
	struct counter *counter = drop_stats.lookup(&index);

	if (counter) {
		counter->packets++;
		counter->bytes += length;
	}
}

/* As count_packet(), for one endpoint: what was forwarded and what was dropped. */
static inline void count_endpoint(u32 endpoint, bool dropped, bool from_endpoint, u32 length)
{
	u32 index = endpoint % ENDPOINT_SLOTS * 4 + dropped * 2 + from_endpoint;
	struct counter *counter = endpoint_stats.lookup(&index);

	if (counter) {
		counter->packets++;
		counter->bytes += length;
	}
}

static inline struct event_budget *budget_of(u32 endpoint)
{
	struct event_budget fresh = {};

	return budgets.lookup_or_try_init(&endpoint, &fresh);
}

static inline struct event_budget *dns_budget_of(u32 endpoint)
{
	struct event_budget fresh = {};

	return dns_budgets.lookup_or_try_init(&endpoint, &fresh);
}

static inline void count_lost_event(void)
{
	u32 zero = 0;
	u64 *lost = events_lost.lookup(&zero);

	if (lost)
		(*lost)++;
}

static inline struct event *event_reserve(void)
{
	struct event *event = events.ringbuf_reserve(sizeof(struct event));

	if (!event)
		count_lost_event();
	return event;
}

/* In one piece, out of map memory. */
static inline void event_output(void *event, u32 size)
{
	if (events.ringbuf_output(event, size, 0))
		count_lost_event();
}

static inline void event_submit(struct event *event)
{
	events.ringbuf_submit(event, 0);
}

#endif
