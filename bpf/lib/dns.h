/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Reading DNS messages (RFC 1035) in UDP. Offsets are of the frame unless they are said to be of
 * the message. What has more than one reading, or a form that is not the common one, is never
 * guessed at: the reader says "odd", and somebody else takes the message.
 */
#ifndef FQDNWALL_DNS_H
#define FQDNWALL_DNS_H

#include "proxy.h"

#define UDP_HEADER 8
#define DNS_HEADER 12
#define DNS_QR 0x8000
#define DNS_OPCODE 0x7800
#define DNS_TC 0x0200
#define DNS_RD 0x0100
#define DNS_RA 0x0080
#define DNS_CD 0x0010
#define DNS_RCODE 0x000f
#define DNS_CLASS_IN 1
#define DNS_LABEL_MAX 63
#define DNS_LABELS_MAX (DNS_NAME_MAX / 2)
#define DNS_NAME_WIRE_MAX (DNS_NAME_MAX + 1)
#define DNS_POINTER 0xc0
#define DNS_TYPE_A 1
#define DNS_TYPE_CNAME 5
#define DNS_TYPE_AAAA 28
#define DNS_TYPE_OPT 41
#define DNS_TYPE_SVCB 64
#define DNS_TYPE_HTTPS 65
#define DNS_TYPE_IXFR 251
#define DNS_TYPE_AXFR 252

struct dns_message {
	u32 start; /* of the message */
	u32 end;
	__be16 id;
	u16 flags;
	u16 questions;
	u16 answers;
	u16 authorities;
	u16 additionals;
	u16 type;
	u16 name_size; /* octets of the name on the wire, its root included */
	u16 at;	       /* a cursor in the name */
	u16 labels;
	u16 marks; /* octets of the name that cannot be characters, so far */
	bool cut;  /* only the beginning of the message is here, or more than one message */
	bool edns;
	bool dnssec_ok;
	u8 label_at[128];	 /* where each label begins in the name */
	struct dns_name_key key; /* the name as the tree has it; see fqdnwall.fqdn.ruleset */
	struct dns_exchange exchange;
	struct place_search search;
	struct dns_event event;
	u8 wire[512] __attribute__((aligned(8))); /* the name as it came */
};

BPF_PERCPU_ARRAY(dns_messages, struct dns_message, 1);

static inline struct dns_message *dns_message(void)
{
	u32 zero = 0;

	return dns_messages.lookup(&zero);
}

/*
 * The header, and that UDP carries just this message. Not so: odd. Of a first fragment, and of
 * several datagrams in one buffer, what is there is read as far as the question.
 */
static inline bool dns_read_header(struct __sk_buff *skb, struct packet *packet,
				   struct dns_message *dns)
{
	u16 header[DNS_HEADER / 2];
	u16 udp_length;

	dns->start = packet->l4_offset + UDP_HEADER;
	if (bpf_skb_load_bytes(skb, packet->l4_offset + 4, &udp_length, 2) < 0 ||
	    bpf_skb_load_bytes(skb, dns->start, header, DNS_HEADER) < 0)
		return false;
	dns->end = packet->l4_offset + bpf_ntohs(udp_length);
	dns->cut = packet->fragment || skb->gso_size;
	if (dns->cut)
		dns->end = packet->end;
	if (dns->end != packet->end || packet->end > skb->len)
		return false;
	dns->id = header[0];
	dns->flags = bpf_ntohs(header[1]);
	dns->questions = bpf_ntohs(header[2]);
	dns->answers = bpf_ntohs(header[3]);
	dns->authorities = bpf_ntohs(header[4]);
	dns->additionals = bpf_ntohs(header[5]);
	return true;
}

#define EVERY(octet) (0x0101010101010101ULL * (octet))
#define HIGH_BITS EVERY(0x80)
#define NAME_MARK 0x80

/* The high bit of each octet that lies in a range; no octet may have its own set. */
static inline u64 octets_in(u64 word, u8 first, u8 last)
{
	return (word + EVERY(0x80 - first)) & ~(word + EVERY(0x7f - last)) & HIGH_BITS;
}

/*
 * Goes from label to label and puts a mark in the place of each length octet: no character that a
 * policy can name has the mark's bit. The octets are in dns->wire, and what lies behind them is of
 * an earlier message: the caller compares the size that is found.
 */
static inline bool dns_find_labels(struct dns_message *dns)
{
	u32 at;
	u8 length;

	dns->at = 0;
	dns->labels = 0;
	for (int i = 0; i <= DNS_LABELS_MAX; i++) {
		reload();
		at = masked(dns->at, 0xff);
		length = dns->wire[at];
		if (!length) {
			dns->name_size = at + 1;
			return true;
		}
		if (length > DNS_LABEL_MAX || at + 1 + length > DNS_NAME_MAX)
			return false;
		dns->wire[at] = NAME_MARK;
		dns->label_at[masked(dns->labels, 0x7f)] = at;
		dns->labels++;
		dns->at = at + 1 + length;
	}
	return false;
}

/*
 * The tree's key: lower case, characters backwards, a zero behind each label. Eight octets at a
 * time, from a buffer with marks between the labels. False where a character is none that a policy
 * can name.
 *
 * The last word goes beyond the name, into marks that come out as zeros before the key's name;
 * the key's head is written over them.
 */
static inline bool dns_make_key(struct dns_message *dns)
{
	u32 size = dns->name_size - 1;
	u32 end = masked(size, 0xff);
	u64 word, marks, good;

	__builtin_memset(&dns->key, 0, sizeof(dns->key));
	for (int i = 0; i < 8; i++)
		dns->wire[end + i] = NAME_MARK;
	dns->marks = 0;
	for (u32 at = 0; at < DNS_NAME_MAX; at += 8) {
		reload();
		size = dns->name_size - 1;
		if (at >= size)
			break;
		word = *(u64 *)&dns->wire[at];
		marks = word & HIGH_BITS;
		word &= ~HIGH_BITS;
		word |= octets_in(word, 'A', 'Z') >> 2;
		good = octets_in(word, 'a', 'z') | octets_in(word, '0', '9') |
		       octets_in(word, '-', '-') | octets_in(word, '_', '_') | marks;
		if (good != HIGH_BITS)
			return false;
		dns->marks += ((marks >> 7) * EVERY(1)) >> 56;
		*(u64 *)((u8 *)&dns->key + masked(size - at, 0xff)) = __builtin_bswap64(word);
	}
	dns->key.prefix_length = 32 + size * 8;
	dns->key.ruleset = 0;
	return dns->marks == dns->labels + (-size & 7);
}

/* One question of class IN, and nothing that the tree cannot answer for. */
static inline bool dns_read_question(struct __sk_buff *skb, struct dns_message *dns)
{
	u32 offset = dns->start + DNS_HEADER;
	u32 size = dns->end - offset;
	__be16 tail[2];

	if (dns->questions != 1 || dns->end <= offset)
		return false;
	if (size > DNS_NAME_WIRE_MAX)
		size = DNS_NAME_WIRE_MAX;
	size = masked_size(size, 0xff);
	if (bpf_skb_load_bytes(skb, offset, dns->wire, size) < 0)
		return false;
	if (!dns_find_labels(dns) || dns->name_size > size || !dns_make_key(dns))
		return false;
	if (offset + dns->name_size + 4 > dns->end ||
	    bpf_skb_load_bytes(skb, offset + dns->name_size, tail, sizeof(tail)) < 0)
		return false;
	dns->type = bpf_ntohs(tail[0]);
	return tail[1] == bpf_htons(DNS_CLASS_IN);
}

/* In the message: what follows the question. */
static inline u32 dns_question_end(struct dns_message *dns)
{
	return DNS_HEADER + dns->name_size + 4;
}

/* Behind the question of a query there is an OPT record (RFC 6891) or nothing. */
static inline bool dns_read_query_tail(struct __sk_buff *skb, struct dns_message *dns)
{
	u32 offset = dns->start + dns_question_end(dns);
	u8 record[11];

	dns->edns = false;
	dns->dnssec_ok = false;
	if (!dns->additionals)
		return offset == dns->end;
	if (dns->additionals != 1 || offset + sizeof(record) > dns->end ||
	    bpf_skb_load_bytes(skb, offset, record, sizeof(record)) < 0)
		return false;
	if (record[0] || record[1] || record[2] != DNS_TYPE_OPT)
		return false;
	dns->edns = true;
	dns->dnssec_ok = record[7] & 0x80;
	return offset + sizeof(record) + (((u32)record[9] << 8) | record[10]) == dns->end;
}

/* Zone transfers (RFC 5936) are refused by the proxy: many messages for one question. */
static inline bool dns_read_query(struct __sk_buff *skb, struct packet *packet,
				  struct dns_message *dns)
{
	if (!dns_read_header(skb, packet, dns) || dns->cut)
		return false;
	if (dns->flags & (DNS_QR | DNS_OPCODE | DNS_TC) || dns->answers || dns->authorities)
		return false;
	if (!dns_read_question(skb, dns) || !dns_read_query_tail(skb, dns))
		return false;
	return dns->type != DNS_TYPE_IXFR && dns->type != DNS_TYPE_AXFR;
}

/* Calls the kernel's DNS for a query that is to be redirected; returns if it is for the proxy. */
static inline void try_kernel_dns(struct __sk_buff *skb, struct scratch *scratch)
{
	struct node_config *settings = node_config();

	if (scratch->packet.protocol != IPPROTO_UDP || scratch->packet.fragment)
		return;
	if (scratch->packet.sum_inside)
		count_dns(scratch->flow.endpoint.id, DNS_PATH_ODD);
	else if (settings && settings->dns_enabled && scratch->decision.ruleset)
		call(skb, CALL_DNS_QUERY);
	else
		count_dns(scratch->flow.endpoint.id, DNS_PATH_NO_TREE);
}

#endif
