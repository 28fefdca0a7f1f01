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
#define EDE_HEAD 4 /* option code and length */
#define EDE_SIZE (EDE_HEAD + 2 + sizeof(DNS_REFUSED_TEXT) - 1)
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

/*
 * Header and question, and an OPT record where EDNS was spoken, with the Extended DNS Error (RFC
 * 8914) of what policy blocks. The same octets as dnsproxy.wire's error_reply and truncated_reply.
 */
static inline bool dns_build(struct __sk_buff *skb, struct dns_message *dns,
			     struct dns_reply *reply, u16 flags, bool blocked)
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
	put16(reply, 10, dns->edns);
	reply->size = question;
	if (dns->edns) {
		at = question;
		put16(reply, at, DNS_TYPE_OPT >> 8); /* the root's name, half of the type */
		reply->message[masked(at + 2, REPLY_MASK)] = DNS_TYPE_OPT;
		put16(reply, at + 3, REPLY_UDP_SIZE);
		put16(reply, at + 5, 0);
		put16(reply, at + 7, dns->dnssec_ok ? 0x8000 : 0);
		put16(reply, at + 9, blocked ? EDE_SIZE : 0);
		if (blocked) {
			put16(reply, at + 11, EDE_OPTION);
			put16(reply, at + 13, EDE_SIZE - EDE_HEAD);
			put16(reply, at + 15, EDE_BLOCKED);
			__builtin_memcpy(&reply->message[masked(at + 17, REPLY_MASK)],
					 DNS_REFUSED_TEXT, sizeof(DNS_REFUSED_TEXT) - 1);
		}
		reply->size += OPT_SIZE + (blocked ? EDE_SIZE : 0);
	}
	put16(reply, reply->size, 0);
	put16(reply, reply->size + 2, 0);
	return true;
}

/* What bpf_csum_diff returns is of 16 bits since Linux 6.13, and of 32 before: sums have more. */
static inline u16 fold(u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* The sum over addresses, protocol and length alone: what a driver is left to complete. */
static inline u64 pseudo_sum(struct address_pair *pair, bool ipv6, u16 length)
{
	__be32 tail[2] = {bpf_htonl(length), bpf_htonl(IPPROTO_UDP)};
	u64 sum;

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
		return !bpf_skb_store_bytes(skb, ETH_HEADER, word, IPV6_HEADER,
					    BPF_F_RECOMPUTE_CSUM);
	}
	header[0] = 0x45;
	*(__be16 *)(header + 2) = bpf_htons(IPV4_HEADER + udp_length);
	header[6] = 0x40; /* do not fragment */
	header[8] = REPLY_TTL;
	header[9] = IPPROTO_UDP;
	word[3] = pair->source.word[3];
	word[4] = pair->destination.word[3];
	*(u16 *)(header + 10) = ~fold(bpf_csum_diff(NULL, 0, (__be32 *)word, IPV4_HEADER, 0));
	return !bpf_skb_store_bytes(skb, ETH_HEADER, word, IPV4_HEADER, BPF_F_RECOMPUTE_CSUM);
}

static inline bool swap_ethernet(struct __sk_buff *skb)
{
	u8 addresses[12];
	u8 swapped[12];

	if (bpf_skb_load_bytes(skb, 0, addresses, sizeof(addresses)))
		return false;
	__builtin_memcpy(swapped, addresses + 6, 6);
	__builtin_memcpy(swapped + 6, addresses, 6);
	return !bpf_skb_store_bytes(skb, 0, swapped, sizeof(swapped), BPF_F_RECOMPUTE_CSUM);
}

/* In the frame: where UDP begins behind the fixed IP header alone. */
static inline u32 plain_l4_offset(struct packet *packet)
{
	return ETH_HEADER + (packet->ipv6 ? IPV6_HEADER : IPV4_HEADER);
}

/* No options, no extension headers. */
static inline bool is_plain(struct packet *packet)
{
	return packet->l4_offset == plain_l4_offset(packet);
}

/*
 * Cuts the packet to `size` octets of UDP payload, and says in `partial` whether its checksum is
 * left to a driver: such a packet must keep the field, so the kernel refuses to cut it off.
 */
static inline bool resize(struct __sk_buff *skb, struct packet *packet, u32 size, bool *partial)
{
	u32 offset = plain_l4_offset(packet);

	*partial = bpf_skb_change_tail(skb, offset + UDP_HEADER - 1, 0) != 0;
	if (*partial && !is_plain(packet))
		return false;
	return !bpf_skb_change_tail(skb, offset + UDP_HEADER + size, 0);
}

/*
 * Puts the message into the packet, and takes options, extension headers and fragmentation out of
 * it. A packet whose checksum a driver was to complete carries the pseudo header's sum in its
 * place, and must go on so.
 */
static inline bool dns_send(struct __sk_buff *skb, struct packet *packet, struct dns_reply *reply,
			    bool turn)
{
	u32 size = masked_size(reply->size, REPLY_MASK);
	u32 offset = plain_l4_offset(packet);
	struct address_pair *pair = &reply->pair;
	u16 length = UDP_HEADER + size;
	bool partial;
	__be16 udp[4];
	u64 sum;

	if (!reply->size || !resize(skb, packet, size, &partial))
		return false;
	pair->source = turn ? packet->destination : packet->source;
	pair->destination = turn ? packet->source : packet->destination;
	udp[0] = turn ? packet->destination_port : packet->source_port;
	udp[1] = turn ? packet->source_port : packet->destination_port;
	udp[2] = bpf_htons(length);
	udp[3] = 0;
	sum = fold(pseudo_sum(pair, packet->ipv6, length));
	if (partial) {
		udp[3] = sum;
	} else {
		sum += bpf_csum_diff(NULL, 0, (__be32 *)udp, sizeof(udp), 0);
		sum = fold(sum);
		sum += bpf_csum_diff(NULL, 0, (__be32 *)reply->message,
				     masked((size + 3) & ~3U, REPLY_MASK), 0);
		udp[3] = ~fold(sum);
		if (!udp[3])
			udp[3] = 0xffff;
	}
	if (bpf_skb_store_bytes(skb, offset, udp, sizeof(udp), BPF_F_RECOMPUTE_CSUM) ||
	    bpf_skb_store_bytes(skb, offset + UDP_HEADER, reply->message, size,
				BPF_F_RECOMPUTE_CSUM))
		return false;
	if (turn && !swap_ethernet(skb))
		return false;
	return write_ip(skb, packet, pair, length);
}

#endif
