/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Ways to say to the verifier, and not to the compiler, what a value may be.
 *
 * Counters and cursors live in map memory, and the barrier makes the compiler load them anew in
 * each round of a loop: the verifier then takes them for any number and checks a round once.
 */
#ifndef FQDNWALL_VERIFIER_H
#define FQDNWALL_VERIFIER_H

#define reload() asm volatile("" ::: "memory")

/* The value under a mask that the compiler may not find superfluous: the verifier needs it. */
static inline u32 masked(u32 value, u32 mask)
{
	asm volatile("" : "+r"(value));
	return value & mask;
}

/* A size that is not zero: before Linux 6.8 the verifier concludes nothing from a test for zero. */
static inline u32 masked_size(u32 size, u32 mask)
{
	return masked(size - 1, mask) + 1;
}

#endif
