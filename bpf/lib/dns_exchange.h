/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Exchanges: queries that the kernel let out and whose answers it waits for. Each endpoint has
 * places for so many. One that was never answered stands there until another takes its place; a
 * query that finds only such as may still be answered is for the proxy.
 */
#ifndef FQDNWALL_DNS_EXCHANGE_H
#define FQDNWALL_DNS_EXCHANGE_H

#include "dns.h"

#define DNS_NOTE_TRIES 2

static inline u64 exchange_hash(struct ct_key *flow, __be16 id)
{
	u64 ends = (u64)flow->local_port << 32 | (u64)flow->remote_port << 16 | id;

	return mix(address_hash(&flow->local) ^ mix(address_hash(&flow->remote) ^ ends));
}

/* Whether it is of this flow, and has this id. */
static inline bool is_of(struct dns_exchange *exchange, struct ct_key *flow, __be16 id)
{
	return exchange->id == id && exchange->client_port == flow->local_port &&
	       exchange->server_port == flow->remote_port &&
	       same_address(&exchange->client, &flow->local) &&
	       same_address(&exchange->server, &flow->remote);
}

/*
 * Whether a datagram to the endpoint may be the answer to a query that the kernel forwarded; the
 * place of that is then in the scratch.
 */
static inline bool dns_expects(struct __sk_buff *skb, struct scratch *scratch)
{
	struct packet *packet = &scratch->packet;
	struct ct_key *flow = &scratch->flow.key;
	struct dns_exchange *exchange;
	__be16 id;
	u64 hash;

	if (packet->protocol != IPPROTO_UDP || packet->later_fragment ||
	    bpf_skb_load_bytes(skb, packet->l4_offset + UDP_HEADER, &id, sizeof(id)) < 0)
		return false;
	hash = exchange_hash(flow, id);
	for (u32 n = 0; n < PLACES_OF_ONE; n++) {
		reload();
		scratch->exchange = place_of(hash, n, DNS_EXCHANGE_PLACES);
		exchange = exchange_at(flow->endpoint, scratch->exchange);
		if (exchange && is_of(exchange, flow, id))
			return true;
	}
	return false;
}

static inline void search_exchange(struct place_search *search, struct ct_key *flow, __be16 id)
{
	struct dns_exchange *exchange;
	u32 place;

	begin_search(search, exchange_hash(flow, id));
	for (u32 n = 0; n < PLACES_OF_ONE; n++) {
		reload();
		place = place_of(search->hash, n, DNS_EXCHANGE_PLACES);
		exchange = exchange_at(flow->endpoint, place);
		if (!exchange) {
			found_vacant(search, n, place);
		} else if (is_of(exchange, flow, id)) {
			search->own = place;
		} else if (search->worn == NO_PLACE || exchange->sent < search->time) {
			search->worn = place;
			search->time = exchange->sent;
		}
	}
}

/* False when the endpoint has no place for it. One that is asked again takes its own. */
static inline bool store_exchange(struct flow *flow, struct dns_message *dns)
{
	struct place_search *search = &dns->search;
	u32 endpoint = flow->endpoint.id;
	u32 place;

	for (int i = 0; i < DNS_NOTE_TRIES; i++) {
		reload();
		search_exchange(search, &flow->key, dns->id);
		place = best_vacancy(search);
		if (search->own == NO_PLACE && place != NO_PLACE) {
			/* Another CPU may have been faster. */
			if (!exchange_add(endpoint, place, &dns->exchange))
				return true;
			continue;
		}
		place = search->own;
		if (place == NO_PLACE &&
		    flow->now > search->time + DNS_EXCHANGE_PATIENCE_SECONDS * NS_PER_SECOND)
			place = search->worn;
		return place != NO_PLACE && !exchange_put(endpoint, place, &dns->exchange);
	}
	return false;
}

static inline bool note_exchange(struct flow *flow, struct dns_message *dns,
				 struct dns_place *place)
{
	struct dns_exchange *exchange = &dns->exchange;

	exchange->sent = flow->now;
	exchange->client = flow->key.local;
	exchange->server = flow->key.remote;
	exchange->client_port = flow->key.local_port;
	exchange->server_port = flow->key.remote_port;
	exchange->id = dns->id;
	exchange->type = dns->type;
	exchange->identity = place->identity;
	exchange->rule = place->rule;
	exchange->name_size = dns->name_size;
	exchange->edns = dns->edns;
	exchange->dnssec_ok = dns->dnssec_ok;
	exchange->pad = 0;
	__builtin_memcpy(exchange->name, dns->key.name, sizeof(exchange->name));
	return store_exchange(flow, dns);
}

static inline bool same_question(struct dns_message *dns, struct dns_exchange *exchange)
{
	u64 *asked = (u64 *)exchange->name;
	u64 *told = (u64 *)dns->key.name;

	if (dns->type != exchange->type || dns->name_size != exchange->name_size)
		return false;
	for (int i = 0; i < DNS_NAME_MAX / 8; i++) {
		if (asked[i] != told[i])
			return false;
	}
	return true;
}

/*
 * Takes the exchange that the answer belongs to out of its place, into dns->exchange; false when
 * there is none. The entry's memory may become another exchange's while it is read: what was copied
 * counts only if the entry stands there afterwards as it did before.
 */
static inline bool take_exchange(struct scratch *scratch, struct dns_message *dns)
{
	struct dns_exchange *exchange = &dns->exchange;
	struct flow *flow = &scratch->flow;
	struct dns_exchange *found;

	found = exchange_at(flow->endpoint.id, scratch->exchange);
	if (!found)
		return false;
	__builtin_memcpy(exchange, found, sizeof(*exchange));
	reload();
	found = exchange_at(flow->endpoint.id, scratch->exchange);
	if (!found || found->sent != exchange->sent || !is_of(exchange, &flow->key, dns->id) ||
	    flow->now - exchange->sent > DNS_EXCHANGE_SECONDS * NS_PER_SECOND)
		return false;
	return same_question(dns, exchange) &&
	       !exchange_remove(flow->endpoint.id, scratch->exchange);
}

#endif
