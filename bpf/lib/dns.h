/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Reading DNS messages (RFC 1035) in UDP. Offsets are of the frame unless they are said to be of
 * the message. What has more than one reading, or a form that is not the common one, is never
 * guessed at: the reader says "odd", and somebody else takes the message.
 *
 * Counters and cursors live in map memory, and the barrier makes the compiler load them anew in
 * each round of a loop: the verifier then takes them for any number and checks a round once.
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
#define DNS_NAME_WIRE_MAX (DNS_NAME_MAX + 1)
#define DNS_POINTER 0xc0
#define DNS_TYPE_A 1
#define DNS_TYPE_CNAME 5
#define DNS_TYPE_AAAA 28
#define DNS_TYPE_OPT 41
#define DNS_TYPE_SVCB 64
#define DNS_TYPE_HTTPS 65

#define reload() asm volatile("" ::: "memory")

/* The value under a mask that the compiler may not find superfluous: the verifier needs it. */
static inline u32 masked(u32 value, u32 mask)
{
	asm volatile("" : "+r"(value));
	return value & mask;
}

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
	u16 left;      /* in the current label */
	u16 labels;
	bool edns;
	bool dnssec_ok;
	struct dns_name_key key; /* the name as the tree has it; see fqdnwall.fqdn.ruleset */
	struct dns_exchange exchange;
	struct dns_event event;
	u8 wire[512];  /* the name as it came, and room for the reader's bounds */
	u8 plain[512]; /* lower case, zeros in the place of length octets */
};

BPF_PERCPU_ARRAY(dns_messages, struct dns_message, 1);

static inline struct dns_message *dns_message(void)
{
	u32 zero = 0;

	return dns_messages.lookup(&zero);
}

/* The header, and that UDP carries just this message. Not so: odd. */
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

static inline bool is_policy_character(u8 c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

/* Labels of characters that a policy can name, no compression, at most DNS_NAME_MAX octets. */
static inline bool dns_walk_name(struct dns_message *dns)
{
	u8 c;

	dns->left = 0;
	dns->labels = 0;
	dns->name_size = 0;
	for (int i = 0; i < DNS_NAME_WIRE_MAX; i++) {
		reload();
		c = dns->wire[i];
		if (dns->left) {
			if (c >= 'A' && c <= 'Z')
				c += 'a' - 'A';
			if (!is_policy_character(c))
				return false;
			dns->plain[i] = c;
			dns->left--;
			continue;
		}
		dns->plain[i] = 0;
		if (!c) {
			dns->name_size = i + 1;
			return true;
		}
		if (c > DNS_LABEL_MAX)
			return false;
		dns->left = c;
		dns->labels++;
	}
	return false;
}

/* The tree's key: characters backwards, a zero behind each label; see dns_walk_name. */
static inline void dns_reverse_name(struct dns_message *dns)
{
	__builtin_memset(&dns->key, 0, sizeof(dns->key));
	for (int i = 0; i < DNS_NAME_MAX; i++) {
		reload();
		if (i + 1 >= dns->name_size)
			break;
		dns->key.name[i] = dns->plain[masked(dns->name_size - 2 - i, 0xff)];
	}
	dns->key.prefix_length = 32 + (u32)(dns->name_size - 1) * 8;
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
	size = masked(size, 0xff);
	if (!size || bpf_skb_load_bytes(skb, offset, dns->wire, size) < 0)
		return false;
	/* What lies behind the message is of an earlier one. */
	dns->wire[size] = DNS_POINTER;
	if (!dns_walk_name(dns) || dns->name_size > size)
		return false;
	if (offset + dns->name_size + 4 > dns->end ||
	    bpf_skb_load_bytes(skb, offset + dns->name_size, tail, sizeof(tail)) < 0)
		return false;
	dns->type = bpf_ntohs(tail[0]);
	if (tail[1] != bpf_htons(DNS_CLASS_IN))
		return false;
	dns_reverse_name(dns);
	return true;
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

static inline bool dns_read_query(struct __sk_buff *skb, struct packet *packet,
				  struct dns_message *dns)
{
	if (!dns_read_header(skb, packet, dns))
		return false;
	if (dns->flags & (DNS_QR | DNS_OPCODE | DNS_TC) || dns->answers || dns->authorities)
		return false;
	return dns_read_question(skb, dns) && dns_read_query_tail(skb, dns);
}

static inline void exchange_key(struct ct_key *flow, __be16 id, struct dns_exchange_key *key)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->client = flow->local;
	key->server = flow->remote;
	key->client_port = flow->local_port;
	key->server_port = flow->remote_port;
	key->endpoint = flow->endpoint;
	key->id = id;
}

/* Whether a datagram to the endpoint may be the answer to a query that the kernel forwarded. */
static inline bool dns_expects(struct __sk_buff *skb, struct scratch *scratch)
{
	struct packet *packet = &scratch->packet;
	struct dns_exchange_key key;
	__be16 id;

	if (packet->protocol != IPPROTO_UDP || packet->later_fragment ||
	    bpf_skb_load_bytes(skb, packet->l4_offset + UDP_HEADER, &id, sizeof(id)) < 0)
		return false;
	exchange_key(&scratch->flow.key, id, &key);
	return exchange_find(&key) != NULL;
}

/* Calls the kernel's DNS for a query that is to be redirected; returns if it is for the proxy. */
static inline void try_kernel_dns(struct __sk_buff *skb, struct scratch *scratch)
{
	struct node_config *settings = node_config();

	if (scratch->packet.protocol != IPPROTO_UDP || scratch->packet.fragment)
		return;
	if (settings && settings->dns_enabled && scratch->decision.ruleset)
		call(skb, CALL_DNS_QUERY);
	else
		count_dns(scratch->flow.endpoint.id, DNS_PATH_NO_TREE);
}

#endif
