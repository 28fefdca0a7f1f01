/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Places: many owners share a map, and none can take more of it than its share.
 *
 * An owner (an endpoint, or a scope) has so many places, and the places are the map's keys. No
 * count is kept that could go wrong when entries are replaced, run out or are collected: there is
 * no key for more. A thing may stand in eight places, which its hash names: four neighbours in each
 * of two sets. It goes where more of the four are vacant, and so half of all places fill before one
 * thing in ten thousand finds none (Azar, Broder, Karlin and Upfal, "Balanced Allocations", 1994).
 *
 * Whoever knows the hash can crowd a place, but only one of its own.
 */
#ifndef FQDNWALL_PLACES_H
#define FQDNWALL_PLACES_H

#include "layouts.h"
#include "verifier.h"

#define PLACES_OF_ONE 8
#define PLACES_TOGETHER 4
#define NO_PLACE 0xffffffff

/* What is to be found in the places of one thing. It lives in map memory. */
struct place_search {
	u64 hash;
	u64 time;	  /* of what stands at `worn`, or at `own` */
	u32 own;	  /* where the thing stands already */
	u32 worn;	  /* where something stands that may go */
	u32 vacant[2];	  /* a place in each set */
	u32 vacancies[2]; /* and how many there are */
	u32 others;	  /* of the same thing, as the user means it */
	u32 owned;	  /* entries of the one who asks */
};

/* The finalizer of MurmurHash3: every bit of the result depends on every bit. */
static inline u64 mix(u64 value)
{
	value ^= value >> 33;
	value *= 0xff51afd7ed558ccdULL;
	value ^= value >> 33;
	value *= 0xc4ceb9fe1a85ec53ULL;
	return value ^ value >> 33;
}

static inline u64 address_hash(struct address *address)
{
	u64 prefix = (u64)address->word[1] << 32 | address->word[0];
	u64 rest = (u64)address->word[3] << 32 | address->word[2];

	return mix(mix(rest) ^ prefix);
}

/* The n-th place of what has this hash, of so many; those are a power of two. */
static inline u32 place_of(u64 hash, u32 n, u32 places)
{
	u32 mask = (places - 1) & ~(PLACES_TOGETHER - 1);
	u32 first = hash & mask, second = hash >> 32 & mask;

	if (first == second)
		second ^= PLACES_TOGETHER;
	return (n < PLACES_TOGETHER ? first : second) | (n & (PLACES_TOGETHER - 1));
}

static inline void begin_search(struct place_search *search, u64 hash)
{
	__builtin_memset(search, 0, sizeof(*search));
	search->hash = hash;
	search->own = NO_PLACE;
	search->worn = NO_PLACE;
}

static inline void found_vacant(struct place_search *search, u32 n, u32 place)
{
	u32 set = n / PLACES_TOGETHER & 1;

	search->vacant[set] = place;
	search->vacancies[set]++;
}

static inline u32 best_vacancy(struct place_search *search)
{
	if (search->vacancies[1] > search->vacancies[0])
		return search->vacant[1];
	return search->vacancies[0] ? search->vacant[0] : NO_PLACE;
}

#endif
