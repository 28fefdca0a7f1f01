/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Turning a DNS packet into another one in place: a query into its refusal, an answer into a
 * truncated one. The message is built whole in map memory, then the packet is cut to size and every
 * header written anew, with checksums over what is there.
 */
#ifndef FQDNWALL_DNS_REPLY_H
#define FQDNWALL_DNS_REPLY_H

#include "dns.h"

#define EDE_OPTION 15
#define EDE_BLOCKED 15
#define OPT_SIZE 11
#define EDE_SIZE 6
#define REPLY_UDP_SIZE 1232
#define REPLY_MASK 0x1ff
#define REPLY_TTL 64

struct address_pair {
	struct address source;
	struct address destination;
};

struct dns_reply {
	u8 message[1024];
	u32 size;
	struct address_pair pair;
};

BPF_PERCPU_ARRAY(dns_replies, struct dns_reply, 1);

static inline struct dns_reply *dns_reply(void)
{
	u32 zero = 0;

	return dns_replies.lookup(&zero);
}

static inline void put16(struct dns_reply *reply, u32 at, u16 value)
{
	reply->message[masked(at, REPLY_MASK)] = value >> 8;
	reply->message[masked(at + 1, REPLY_MASK)] = value;
}

/* Header and question, and an OPT record with the Extended DNS Error where EDNS was spoken. */
static inline bool dns_build(struct __sk_buff *skb, struct dns_message *dns,
			     struct dns_reply *reply, u16 flags, bool edns, bool blocked)
{
	u32 question = dns_question_end(dns);
	u32 at;

	question = masked(question, REPLY_MASK);
	if (question < DNS_HEADER || bpf_skb_load_bytes(skb, dns->start, reply->message, question))
		return false;
	put16(reply, 2, flags);
	put16(reply, 4, 1);
	put16(reply, 6, 0);
	put16(reply, 8, 0);
	put16(reply, 10, edns);
	reply->size = question;
	if (edns) {
		at = question;
		put16(reply, at, DNS_TYPE_OPT >> 8); /* the root's name, half of the type */
		reply->message[masked(at + 2, REPLY_MASK)] = DNS_TYPE_OPT;
		put16(reply, at + 3, REPLY_UDP_SIZE);
		put16(reply, at + 5, 0);
		put16(reply, at + 7, dns->dnssec_ok ? 0x8000 : 0);
		put16(reply, at + 9, blocked ? EDE_SIZE : 0);
		if (blocked) {
			put16(reply, at + 11, EDE_OPTION);
			put16(reply, at + 13, 2);
			put16(reply, at + 15, EDE_BLOCKED);
		}
		reply->size += OPT_SIZE + (blocked ? EDE_SIZE : 0);
	}
	put16(reply, reply->size, 0);
	put16(reply, reply->size + 2, 0);
	return true;
}

static inline u16 fold(s64 sum)
{
	u32 folded = sum;

	folded = (folded & 0xffff) + (folded >> 16);
	folded = (folded & 0xffff) + (folded >> 16);
	return folded;
}

/* The sum over addresses, protocol and length alone: what a driver is left to complete. */
static inline s64 pseudo_sum(struct address_pair *pair, bool ipv6, u16 length)
{
	__be32 tail[2] = {bpf_htonl(length), bpf_htonl(IPPROTO_UDP)};
	s64 sum;

	if (ipv6)
		sum = bpf_csum_diff(NULL, 0, (__be32 *)&pair->source, 2 * sizeof(struct address),
				    0);
	else
		sum = bpf_csum_diff(NULL, 0, (__be32 *)&pair->source.word[3], 4, 0) +
		      bpf_csum_diff(NULL, 0, (__be32 *)&pair->destination.word[3], 4, 0);
	return fold(sum) + bpf_csum_diff(NULL, 0, tail, sizeof(tail), 0);
}

static inline bool write_ip(struct __sk_buff *skb, struct packet *packet, struct address_pair *pair,
			    u16 udp_length)
{
	u32 word[IPV6_HEADER / 4] = {};
	u8 *header = (u8 *)word;

	if (packet->ipv6) {
		header[0] = 0x60;
		*(__be16 *)(header + 4) = bpf_htons(udp_length);
		header[6] = IPPROTO_UDP;
		header[7] = REPLY_TTL;
		__builtin_memcpy(&word[2], &pair->source, sizeof(struct address));
		__builtin_memcpy(&word[6], &pair->destination, sizeof(struct address));
		return !bpf_skb_store_bytes(skb, ETH_HEADER, word, IPV6_HEADER, 0);
	}
	header[0] = 0x45;
	*(__be16 *)(header + 2) = bpf_htons(IPV4_HEADER + udp_length);
	header[6] = 0x40; /* do not fragment */
	header[8] = REPLY_TTL;
	header[9] = IPPROTO_UDP;
	word[3] = pair->source.word[3];
	word[4] = pair->destination.word[3];
	*(u16 *)(header + 10) = ~fold(bpf_csum_diff(NULL, 0, (__be32 *)word, IPV4_HEADER, 0));
	return !bpf_skb_store_bytes(skb, ETH_HEADER, word, IPV4_HEADER, 0);
}

static inline bool swap_ethernet(struct __sk_buff *skb)
{
	u8 addresses[12];
	u8 swapped[12];

	if (bpf_skb_load_bytes(skb, 0, addresses, sizeof(addresses)))
		return false;
	__builtin_memcpy(swapped, addresses + 6, 6);
	__builtin_memcpy(swapped + 6, addresses, 6);
	return !bpf_skb_store_bytes(skb, 0, swapped, sizeof(swapped), 0);
}

/* The headers must be plain: what is rewritten starts behind the fixed IP header. */
static inline bool is_plain(struct packet *packet)
{
	return packet->l4_offset == ETH_HEADER + (packet->ipv6 ? IPV6_HEADER : IPV4_HEADER);
}

/*
 * Puts the message into the packet. A packet whose checksum a driver was to complete carries the
 * pseudo header's sum in its place, and must go on so.
 */
static inline bool dns_send(struct __sk_buff *skb, struct packet *packet, struct dns_reply *reply,
			    bool turn)
{
	struct address_pair *pair = &reply->pair;
	u32 size = masked(reply->size, REPLY_MASK);
	u16 udp_length = UDP_HEADER + size;
	__be16 ports[2], old_check;
	__be16 udp[4];
	u16 old_length;
	bool partial;
	s64 sum;

	pair->source = turn ? packet->destination : packet->source;
	pair->destination = turn ? packet->source : packet->destination;
	if (bpf_skb_load_bytes(skb, packet->l4_offset, udp, sizeof(udp)))
		return false;
	old_length = bpf_ntohs(udp[2]);
	old_check = udp[3];
	partial = old_check == fold(pseudo_sum(pair, packet->ipv6, old_length));
	ports[0] = turn ? udp[1] : udp[0];
	ports[1] = turn ? udp[0] : udp[1];
	if (bpf_skb_change_tail(skb, packet->l4_offset + UDP_HEADER + size, 0))
		return false;
	sum = pseudo_sum(pair, packet->ipv6, udp_length);
	udp[0] = ports[0];
	udp[1] = ports[1];
	udp[2] = bpf_htons(udp_length);
	udp[3] = 0;
	if (partial) {
		udp[3] = fold(sum);
	} else {
		sum = fold(sum) + bpf_csum_diff(NULL, 0, (__be32 *)udp, sizeof(udp), 0);
		sum = bpf_csum_diff(NULL, 0, (__be32 *)reply->message,
				    masked((size + 3) & ~3U, REPLY_MASK), fold(sum));
		udp[3] = ~fold(sum);
		if (!udp[3])
			udp[3] = 0xffff;
	}
	if (!size || bpf_skb_store_bytes(skb, packet->l4_offset, udp, sizeof(udp), 0) ||
	    bpf_skb_store_bytes(skb, packet->l4_offset + UDP_HEADER, reply->message, size, 0))
		return false;
	if (turn && !swap_ethernet(skb))
		return false;
	return write_ip(skb, packet, pair, udp_length);
}

#endif
