/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Fragments. The first leaves its ports behind for the later ones, which carry none; a later one
 * that comes before its first, or that would overwrite headers which the first showed, is dropped.
 */
#ifndef FQDNWALL_FRAGMENT_H
#define FQDNWALL_FRAGMENT_H

#include "packet.h"

static inline int store_first_fragment(struct packet *packet, struct fragment_key *key)
{
	struct fragment_value ports = {
		.source_port = packet->source_port,
		.destination_port = packet->destination_port,
		.headers = packet->l4_offset + packet->l4_size - packet->fragment_start,
		.protocol = packet->protocol,
		.icmp_type = packet->icmp_type,
		.icmp_code = packet->icmp_code,
	};

	return fragment_store(key, &ports) ? -DROP_FRAGMENT_NOT_FOUND : 0;
}

/* An IPv6 datagram is known by its number alone: its protocol may stand in the first fragment. */
static inline int track_fragment(struct packet *packet, u32 endpoint)
{
	struct fragment_key key = {
		.source = packet->source,
		.destination = packet->destination,
		.endpoint = endpoint,
		.id = packet->fragment_id,
		.protocol = packet->ipv6 ? IPPROTO_FRAGMENT : packet->protocol,
	};
	struct fragment_value *first;

	if (!packet->later_fragment)
		return store_first_fragment(packet, &key);
	first = fragment_find(&key);
	if (!first)
		return -DROP_FRAGMENT_NOT_FOUND;
	if (packet->fragment_offset < first->headers)
		return -DROP_CT_INVALID_HEADER;
	packet->source_port = first->source_port;
	packet->destination_port = first->destination_port;
	packet->protocol = first->protocol;
	packet->icmp_type = first->icmp_type;
	packet->icmp_code = first->icmp_code;
	packet->tcp_flags = 0;
	return 0;
}

#endif
