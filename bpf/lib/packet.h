/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Reading a packet. Every reader bounds-checks, and returns 0 or a negative drop reason. IPv4 and
 * IPv6 come out as one shape: 16-octet addresses, the layer-4 protocol behind all extension
 * headers, and ports. A header that is not whole within the datagram's own length, a routing header
 * that is not used up and a source-route option are refused: what policy judges must be what the
 * receiver sees.
 */
#ifndef FQDNWALL_PACKET_H
#define FQDNWALL_PACKET_H

#include "maps.h"

#define ETH_HEADER 14
#define IPV4_HEADER 20
#define IPV6_HEADER 40
#define EXTENSIONS_MAX 8
#define IPV4_OPTIONS_MAX 40
#define IPV4_OPTION_END 0
#define IPV4_OPTION_NOP 1
#define IPV4_OPTION_LOOSE_ROUTE 131
#define IPV4_OPTION_STRICT_ROUTE 137

#define IPV4_MORE_FRAGMENTS 0x2000
#define IPV4_OFFSET 0x1fff
#define IPV6_MORE_FRAGMENTS 1
#define IPV6_OFFSET 0xfff8

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

struct packet {
	struct address source;
	struct address destination;
	__be16 source_port; /* ICMP: 0, or the identifier of an echo message */
	__be16 destination_port;
	u16 l4_offset;
	u8 protocol;
	u8 tcp_flags;
	u8 icmp_type;
	u8 icmp_code;
	u8 hop_limit;
	bool ipv6;
	bool fragment;	     /* any fragment of a datagram */
	bool later_fragment; /* not the first: carries no layer-4 header */
	bool sum_inside;     /* a device is to write a checksum into what layer 4 carries */
	bool quotes;	     /* an ICMP error, and the packet that it quotes has been read */
	u32 fragment_id;
	u16 fragment_start;  /* in the frame: where what is in fragments begins */
	u16 fragment_offset; /* of it in the datagram, octets */
	u16 l4_size;	     /* octets of the layer-4 header */
	u32 end;	     /* in the frame: what follows is padding that the receiver cuts off */
};

static inline void map_ipv4(struct address *address, __be32 ipv4)
{
	address->word[0] = 0;
	address->word[1] = 0;
	address->word[2] = bpf_htonl(0xffff);
	address->word[3] = ipv4;
}

static inline bool same_address(struct address *a, struct address *b)
{
	return a->word[0] == b->word[0] && a->word[1] == b->word[1] && a->word[2] == b->word[2] &&
	       a->word[3] == b->word[3];
}

/* Segments of the kernel's own that exceed 64 KiB (BIG TCP) leave their length zero. */
static inline u32 datagram_end(struct __sk_buff *skb, u32 offset, u32 header, u32 length)
{
	if (!length && skb->gso_size)
		return skb->len;
	return offset + header + length;
}

/* An unaligned field at a constant offset of a header that was read whole. */
#define FIELD(header, type, offset) (*(type *)((header) + (offset)))

/*
 * Loose and strict source routes let the destination differ from the address that is judged. The
 * cursor is packet->l4_offset: in map memory it is any number to the verifier, and one pass of the
 * loop is checked for all.
 */
static inline int check_ipv4_options(struct __sk_buff *skb, struct packet *packet, u32 end)
{
	u8 option[2];

	for (int i = 0; i < IPV4_OPTIONS_MAX; i++) {
		if (packet->l4_offset >= end)
			return 0;
		if (bpf_skb_load_bytes(skb, packet->l4_offset, option, 1) < 0)
			return -DROP_INVALID_PACKET;
		if (option[0] == IPV4_OPTION_END)
			return 0;
		if (option[0] == IPV4_OPTION_LOOSE_ROUTE || option[0] == IPV4_OPTION_STRICT_ROUTE)
			return -DROP_INVALID_PACKET;
		option[1] = 1;
		if (option[0] != IPV4_OPTION_NOP &&
		    (bpf_skb_load_bytes(skb, packet->l4_offset, option, 2) < 0 || option[1] < 2))
			return -DROP_INVALID_PACKET;
		packet->l4_offset += option[1];
	}
	return 0;
}

static inline int read_ipv4(struct __sk_buff *skb, u32 offset, struct packet *packet)
{
	u32 word[IPV4_HEADER / 4];
	u8 *header = (u8 *)word;
	u16 fragment;
	u32 length;

	if (bpf_skb_load_bytes(skb, offset, word, IPV4_HEADER) < 0)
		return -DROP_INVALID_PACKET;
	packet->end = datagram_end(skb, offset, 0, bpf_ntohs(FIELD(header, u16, 2)));
	length = (header[0] & 0xf) * 4;
	if (header[0] >> 4 != 4 || length < IPV4_HEADER)
		return -DROP_INVALID_PACKET;
	packet->l4_offset = offset + IPV4_HEADER;
	if (length > IPV4_HEADER && check_ipv4_options(skb, packet, offset + length) < 0)
		return -DROP_INVALID_PACKET;
	fragment = bpf_ntohs(FIELD(header, u16, 6));
	packet->ipv6 = false;
	packet->fragment = fragment & (IPV4_MORE_FRAGMENTS | IPV4_OFFSET);
	packet->later_fragment = fragment & IPV4_OFFSET;
	packet->fragment_id = FIELD(header, u16, 4);
	packet->fragment_start = offset + length;
	packet->fragment_offset = (fragment & IPV4_OFFSET) * 8;
	packet->hop_limit = header[8];
	packet->protocol = header[9];
	packet->l4_offset = offset + length;
	map_ipv4(&packet->source, word[3]);
	map_ipv4(&packet->destination, word[4]);
	return 0;
}

static inline bool is_extension(u8 protocol)
{
	return protocol == IPPROTO_HOPOPTS || protocol == IPPROTO_ROUTING ||
	       protocol == IPPROTO_DSTOPTS || protocol == IPPROTO_FRAGMENT ||
	       protocol == IPPROTO_AH;
}

/*
 * Walks the extension headers to the upper layer, or to where a later fragment hides it. The
 * cursor is in the packet, for the same reason as above.
 */
static inline int walk_extensions(struct __sk_buff *skb, struct packet *packet)
{
	u16 fragment;
	u8 header[8];
	u8 type;

	for (int i = 0; i < EXTENSIONS_MAX; i++) {
		type = packet->protocol;
		if (!is_extension(type) || packet->later_fragment)
			return 0;
		if (bpf_skb_load_bytes(skb, packet->l4_offset, header, 8) < 0)
			return -DROP_INVALID_EXTENSION_HEADER;
		packet->protocol = header[0];
		switch (type) {
		case IPPROTO_FRAGMENT:
			if (packet->fragment_start)
				return -DROP_INVALID_EXTENSION_HEADER;
			fragment = ((u16)header[2] << 8) | header[3];
			packet->fragment = fragment & (IPV6_OFFSET | IPV6_MORE_FRAGMENTS);
			packet->later_fragment = fragment & IPV6_OFFSET;
			packet->fragment_id = FIELD(header, u32, 4);
			packet->fragment_offset = fragment & IPV6_OFFSET;
			packet->l4_offset += 8;
			packet->fragment_start = packet->l4_offset;
			break;
		case IPPROTO_AH:
			packet->l4_offset += ((u32)header[1] + 2) * 4;
			break;
		case IPPROTO_ROUTING:
			if (header[3])
				return -DROP_INVALID_EXTENSION_HEADER;
			/* fall through */
		default:
			packet->l4_offset += ((u32)header[1] + 1) * 8;
		}
	}
	return is_extension(packet->protocol) ? -DROP_INVALID_EXTENSION_HEADER : 0;
}

static inline int read_ipv6(struct __sk_buff *skb, u32 offset, struct packet *packet)
{
	u32 word[IPV6_HEADER / 4];
	u8 *header = (u8 *)word;

	if (bpf_skb_load_bytes(skb, offset, word, IPV6_HEADER) < 0)
		return -DROP_INVALID_PACKET;
	if (header[0] >> 4 != 6)
		return -DROP_INVALID_PACKET;
	packet->end = datagram_end(skb, offset, IPV6_HEADER, bpf_ntohs(FIELD(header, u16, 4)));
	packet->ipv6 = true;
	packet->fragment = false;
	packet->later_fragment = false;
	packet->fragment_start = 0;
	packet->hop_limit = header[7];
	__builtin_memcpy(&packet->source, &word[2], sizeof(packet->source));
	__builtin_memcpy(&packet->destination, &word[6], sizeof(packet->destination));
	/* A mapped address on the wire would pass for the IPv4 host of that number. */
	if ((!word[2] && !word[3] && word[4] == bpf_htonl(0xffff)) ||
	    (!word[6] && !word[7] && word[8] == bpf_htonl(0xffff)))
		return -DROP_INVALID_PACKET;
	packet->protocol = header[6];
	packet->l4_offset = offset + IPV6_HEADER;
	return walk_extensions(skb, packet);
}

static inline bool is_icmp(u8 protocol)
{
	return protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6;
}

#define ICMP4_ECHO_REPLY 0
#define ICMP4_ECHO 8
#define ICMP6_ECHO 128
#define ICMP6_ECHO_REPLY 129

static inline bool is_echo_request(struct packet *packet)
{
	return (packet->protocol == IPPROTO_ICMP && packet->icmp_type == ICMP4_ECHO) ||
	       (packet->protocol == IPPROTO_ICMPV6 && packet->icmp_type == ICMP6_ECHO);
}

static inline bool is_echo_reply(struct packet *packet)
{
	return (packet->protocol == IPPROTO_ICMP && packet->icmp_type == ICMP4_ECHO_REPLY) ||
	       (packet->protocol == IPPROTO_ICMPV6 && packet->icmp_type == ICMP6_ECHO_REPLY);
}

/* How much of a layer-4 header is read; 0 where the protocol has no ports that we know. */
static inline u32 l4_header(u8 protocol)
{
	switch (protocol) {
	case IPPROTO_TCP:
		return 20;
	case IPPROTO_UDP:
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		return 8;
	case IPPROTO_SCTP:
		return 12;
	}
	return 0;
}

static inline void read_icmp(struct packet *packet, u8 *header)
{
	packet->icmp_type = header[0];
	packet->icmp_code = header[1];
	if (is_echo_request(packet) || is_echo_reply(packet))
		packet->source_port = FIELD(header, u16, 4);
}

/* Ports, flags and types; a protocol without ports has none. */
static inline int read_l4(struct __sk_buff *skb, struct packet *packet)
{
	u8 header[16];

	packet->source_port = 0;
	packet->destination_port = 0;
	packet->tcp_flags = 0;
	packet->icmp_type = 0;
	packet->icmp_code = 0;
	packet->l4_size = l4_header(packet->protocol);
	/* No receiver takes the one family's ICMP in the other's packets. */
	if (packet->protocol == (packet->ipv6 ? IPPROTO_ICMP : IPPROTO_ICMPV6))
		return -DROP_INVALID_PACKET;
	if (!packet->l4_size)
		return 0;
	if (bpf_skb_load_bytes(skb, packet->l4_offset, header,
			       packet->protocol == IPPROTO_TCP ? 14 : 8) < 0)
		return -DROP_CT_INVALID_HEADER;
	if (packet->protocol == IPPROTO_TCP) {
		packet->tcp_flags = header[13];
		packet->l4_size = (header[12] >> 4) * 4;
		if (packet->l4_size < 20)
			return -DROP_CT_INVALID_HEADER;
	}
	if (packet->l4_offset + packet->l4_size > packet->end)
		return -DROP_CT_INVALID_HEADER;
	if (is_icmp(packet->protocol)) {
		read_icmp(packet, header);
		return 0;
	}
	packet->source_port = FIELD(header, u16, 0);
	packet->destination_port = FIELD(header, u16, 2);
	return 0;
}

#endif
