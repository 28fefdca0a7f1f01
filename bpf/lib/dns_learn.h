/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Learning: an address carries an identity for a time, in a place of the scope's own.
 *
 * An entry is made by one CPU alone and replaced whole, never written in place: the agent may be
 * deleting it, and its memory may be another address's a moment later. Two names on one address
 * have an entry each, so that two CPUs that learn of the same address at the same time lose
 * nothing. What still has its time is in nobody's way: where no place is left, nothing is learned.
 */
#ifndef FQDNWALL_DNS_LEARN_H
#define FQDNWALL_DNS_LEARN_H

#include "dns_answer.h"

#define DNS_LEARN_TRIES 3

static inline void search_learned(struct place_search *search, struct flow *flow,
				  struct dns_learned *wanted)
{
	u32 scope = flow->endpoint.scope;
	struct dns_learned *found;
	bool holds;
	u32 place;

	begin_search(search, address_hash(&wanted->address));
	for (u32 n = 0; n < PLACES_OF_ONE; n++) {
		reload();
		place = place_of(search->hash, n, answer_places(scope));
		found = answer_at(scope, place);
		if (!found) {
			found_vacant(search, n, place);
			continue;
		}
		holds = found->expires > flow->now;
		if (same_address(&found->address, &wanted->address)) {
			if (found->identity == wanted->identity) {
				search->own = place;
				search->time = found->expires;
				continue;
			}
			search->others += holds;
		}
		if (holds)
			search->owned += found->endpoint == wanted->endpoint;
		else
			search->worn = place;
	}
}

/*
 * Lets the address carry the identity until then; false when it finds no place. Where all endpoints
 * learn in one scope, one of them may have half of an address's places.
 */
static inline bool learn(struct place_search *search, struct flow *flow, struct dns_learned *wanted)
{
	u32 scope = flow->endpoint.scope;
	u32 place;

	for (int i = 0; i < DNS_LEARN_TRIES; i++) {
		reload();
		search_learned(search, flow, wanted);
		if (search->own != NO_PLACE && search->time >= wanted->expires)
			return true;
		if (search->others >= LEARNED_SLOTS)
			return false;
		if (search->own != NO_PLACE)
			return !answer_put(scope, search->own, wanted);
		if (!scope && search->owned >= PLACES_TOGETHER)
			return false;
		place = best_vacancy(search);
		if (place == NO_PLACE) {
			place = search->worn;
			if (place == NO_PLACE)
				return false;
			answer_remove(scope, place);
		}
		/* Another CPU may have been faster. */
		if (!answer_add(scope, place, wanted))
			return true;
	}
	return false;
}

#endif
