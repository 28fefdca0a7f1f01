/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What policy says of a new flow.
 *
 * The peer's identities are the one of its address in ipcache and the FQDN identities under which
 * the endpoint learned that address and whose time has not run out. Each is looked up, and
 * identity 0 (any peer) once; the highest precedence decides, then the longer layer-4 prefix,
 * then the entry that names an identity. A deny for a CIDR thus holds for a learned address too.
 */
#ifndef FQDNWALL_POLICY_H
#define FQDNWALL_POLICY_H

#include "events.h"
#include "places.h"

#define POLICY_KEY_BITS 64
#define IDENTITY_WORLD 2
#define IDENTITY_WORLD_IPV4 9
#define IDENTITY_WORLD_IPV6 10
#define IDENTITY_SCOPE_BITS 24
#define IDENTITY_LOCAL 1 /* the scope of CIDR and FQDN identities */

static inline bool is_ipv4(struct address *address)
{
	return !address->word[0] && !address->word[1] && address->word[2] == bpf_htonl(0xffff);
}

static inline u32 identity_of(struct address *address, struct ipcache_value *value)
{
	if (value)
		return value->identity;
	return is_ipv4(address) ? IDENTITY_WORLD_IPV4 : IDENTITY_WORLD_IPV6;
}

/* Layer 4 as policy knows it: an ICMP type stands in the place of the port. */
static inline __be16 policy_port(struct flow *flow, bool egress)
{
	if (is_icmp(flow->key.protocol))
		return bpf_htons(flow->icmp_type);
	return egress ? flow->key.remote_port : flow->key.local_port;
}

static inline bool outranks(struct policy_value *value, struct decision *best, bool named)
{
	if (!best->found || value->precedence != best->precedence)
		return !best->found || value->precedence > best->precedence;
	if (value->l4_prefix != best->l4_prefix)
		return value->l4_prefix > best->l4_prefix;
	return named;
}

static inline void consult(void *policy, struct policy_key *key, u32 identity, bool from_learned,
			   struct decision *best)
{
	struct policy_value *value;

	key->identity = identity;
	value = policy_entry(policy, key);
	if (!value || !outranks(value, best, identity != 0))
		return;
	best->found = true;
	best->verdict = value->verdict;
	best->precedence = value->precedence;
	best->l4_prefix = value->l4_prefix;
	best->rule = value->rule;
	best->ruleset = value->ruleset;
	best->learned = from_learned;
	if (identity)
		best->identity = identity;
}

/*
 * Names speak of the world outside: whatever a name resolves to, it opens neither the host nor
 * another endpoint, which policy has words of its own for.
 */
static inline bool is_outside(u32 identity)
{
	return identity == IDENTITY_WORLD || identity == IDENTITY_WORLD_IPV4 ||
	       identity == IDENTITY_WORLD_IPV6 || identity >> IDENTITY_SCOPE_BITS == IDENTITY_LOCAL;
}

/* The FQDN identities of an address, as long as their time has not run out. */
static inline void consult_learned(void *policy, struct policy_key *key,
				   struct learned_value *value, struct flow *flow,
				   struct decision *best)
{
	if (!value)
		return;
	for (int i = 0; i < LEARNED_SLOTS; i++) {
		if (value->slots[i].identity && value->slots[i].expires > flow->now)
			consult(policy, key, value->slots[i].identity, true, best);
	}
}

/* So many addresses a scope may learn: all endpoints share that of the node. */
static inline u32 answer_places(u32 scope)
{
	return scope ? DNS_LEARNED_PLACES : DNS_NODE_PLACES;
}

/* Those that the kernel has read in an answer. */
static inline void consult_answers(void *policy, struct policy_key *key, struct flow *flow,
				   struct decision *best)
{
	u64 hash = address_hash(&flow->key.remote);
	u32 scope = flow->endpoint.scope;
	struct dns_learned *found;

	for (u32 n = 0; n < PLACES_OF_ONE; n++) {
		reload();
		found = answer_at(scope, place_of(hash, n, answer_places(scope)));
		if (found && same_address(&found->address, &flow->key.remote) &&
		    found->expires > flow->now)
			consult(policy, key, found->identity, true, best);
	}
}

/* `remembered` is the FQDN identity that let the flow in, if it is one that runs already. */
static inline void decide(struct flow *flow, bool egress, u32 remembered, struct decision *best)
{
	struct endpoint_info *endpoint = &flow->endpoint;
	u32 enforcing = egress ? EP_ENFORCE_EGRESS : EP_ENFORCE_INGRESS;
	struct policy_key key = {
		.prefix_length = POLICY_KEY_BITS,
		.direction = egress,
		.protocol = flow->key.protocol,
		.port = policy_port(flow, egress),
	};
	struct ipcache_value *known;
	u32 address_identity;
	void *policy;

	__builtin_memset(best, 0, sizeof(*best));
	known = ipcache_lookup(&flow->key.remote);
	address_identity = identity_of(&flow->key.remote, known);
	best->identity = address_identity;
	policy = policy_of(endpoint->id);
	if (!policy) {
		best->verdict =
			endpoint->flags & enforcing ? -DROP_ENDPOINT_NOT_READY : VERDICT_ALLOW;
		return;
	}
	consult(policy, &key, 0, false, best);
	consult(policy, &key, address_identity, false, best);
	if (remembered && is_outside(address_identity))
		consult(policy, &key, remembered, true, best);
	if (egress && is_outside(address_identity)) {
		consult_learned(policy, &key, learned_lookup(endpoint->scope, &flow->key.remote),
				flow, best);
		consult_answers(policy, &key, flow, best);
	}
	/* A resolver that only the host can reach is the proxy's to ask. */
	if (known && known->flags & IPCACHE_STUB)
		best->ruleset = 0;
	if (!best->found)
		best->verdict = endpoint->flags & enforcing ? -DROP_POLICY_DENIED : VERDICT_ALLOW;
	else if (best->verdict == VERDICT_DENY)
		best->verdict = -DROP_POLICY_DENY;
}

#endif
