/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * A checksum that is left to a device is written when the packet leaves the host, after policy has
 * judged it, and where the sender said. A packet socket with PACKET_VNET_HDR says anything: a port,
 * an address or two letters of a name would be another one on the wire than here.
 *
 * What the kernel has noted for the device is in no field that a program may read, so it is read as
 * memory, by the kernel's own type information (fqdnwall.datapath.btf).
 */
#ifndef FQDNWALL_OFFLOAD_H
#define FQDNWALL_OFFLOAD_H

#include "flow.h"

#define CHECKSUM_PARTIAL 3
#define CHECKSUM_PARTIAL_MASK 3
#define SK_BUFF_MASK 0xfff
#define L4_READ 8 /* octets of whatever layer 4 */

BPF_ARRAY(sk_buff_places, struct sk_buff_places, 1);

static inline u32 read_octets(struct __sk_buff *skb, u32 offset, void *octets, u32 size)
{
	return bpf_probe_read_kernel(octets, size, (void *)skb + masked(offset, SK_BUFF_MASK));
}

/* Of the frame: where the checksum is to be written, and from where it counts; 0: nowhere. */
struct offload {
	u32 from;
	u32 to;
};

static inline bool read_offload(struct __sk_buff *skb, struct offload *offload)
{
	u32 zero = 0;
	struct sk_buff_places *places = sk_buff_places.lookup(&zero);
	u16 sum[2] = {}, mac_header = 0;
	u8 summed = 0;

	offload->from = 0;
	offload->to = 0;
	if (!places || !places->known)
		return true;
	if (read_octets(skb, places->ip_summed, &summed, sizeof(summed)))
		return false;
	if ((summed >> (places->ip_summed_shift & 7) & CHECKSUM_PARTIAL_MASK) != CHECKSUM_PARTIAL)
		return true;
	if (read_octets(skb, places->csum, sum, sizeof(sum)) ||
	    read_octets(skb, places->mac_header, &mac_header, sizeof(mac_header)))
		return false;
	offload->from = (u16)(sum[0] - mac_header);
	offload->to = offload->from + sum[1];
	return true;
}

/* Whether a device is to write a checksum, or nobody can say. */
static inline bool has_offload(struct __sk_buff *skb)
{
	struct offload offload;

	return !read_offload(skb, &offload) || offload.to;
}

/* Where the checksum of the packet's own layer 4 stands, in that; 0 where it has none. */
static inline u32 checksum_offset(u8 protocol)
{
	switch (protocol) {
	case IPPROTO_TCP:
		return 16;
	case IPPROTO_UDP:
		return 6;
	case IPPROTO_SCTP:
		return 8;
	}
	return 0;
}

/*
 * A checksum of the packet's own is in its place. One that is not may be of a packet within it, a
 * tunnel's, behind all that policy looks at; a message that it is in is not for the kernel to read.
 */
static inline int check_offload(struct __sk_buff *skb, struct packet *packet)
{
	u32 own = checksum_offset(packet->protocol);
	struct offload offload;

	if (!read_offload(skb, &offload))
		return -DROP_INVALID_PACKET;
	if (!offload.to)
		return 0;
	if (own && offload.from == packet->l4_offset && offload.to == packet->l4_offset + own)
		return 0;
	if (is_icmp(packet->protocol) || offload.to < packet->l4_offset + L4_READ ||
	    offload.to < packet->l4_offset + packet->l4_size)
		return -DROP_INVALID_PACKET;
	packet->sum_inside = true;
	return 0;
}

#endif
