/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Reading the records of an answer: the addresses of the name that was asked, along its CNAMEs.
 *
 * One loop takes one step at a time (a record, a label, a service parameter, an address), so that
 * there is no loop in a loop. A record of the answer section that matters must belong to the name
 * that the chain has reached, and say so by a pointer to it. In that section every pointer must
 * lead to where a name that was read before has a label; in the others, where no address is looked
 * for, an owner may be any name. Every section is walked to the message's end. Anything else is
 * odd: nothing is learned from such a message, and nobody gets it.
 */
#ifndef FQDNWALL_DNS_ANSWER_H
#define FQDNWALL_DNS_ANSWER_H

#include "dns_reply.h"

#define DNS_STEPS_AT_ONCE 12 /* in one program; it then calls itself */
#define DNS_ROUNDS_MAX 19
#define DNS_LEARN_AT_ONCE 8
#define DNS_NAMES_MAX 32       /* CNAMEs in a chain, and the question's name */
#define DNS_JUMPS_MAX 64       /* pointers that one name may need */
#define DNS_POINTERS_MAX 0x3ff /* how far into the message pointers may lead */
#define DNS_TTL_SIGN 0x80000000
#define SVCB_IPV4HINT 4
#define SVCB_IPV6HINT 6

enum {
	STEP_RECORD,
	STEP_OWNER, /* labels of a name that says nothing to us */
	STEP_HEAD,  /* what follows the owner's name */
	STEP_CNAME,
	STEP_TARGET,
	STEP_PARAMETER,
	STEP_HINT,
};

struct dns_reader {
	u32 cursor; /* in the message, as all offsets here */
	u32 end;
	u32 record_end;
	u32 name_start; /* while an owner is walked: where its current run of labels began */
	u32 walk;	/* along an owner's name, by its pointers too */
	u32 after;	/* where the owner ends in its place; 0: it has not met a pointer */
	u32 hint_end;
	u32 owner;    /* where the record's owner is said to stand; 0: it is the root, or unknown */
	u32 expected; /* where the name that the chain has reached stands */
	u32 expected_too; /* and where it stands as well, if it is only a pointer */
	u32 ttl;	  /* the least of what matters */
	u32 record_ttl;
	u16 records;   /* seen */
	u16 parameter; /* the last SvcParamKey, and one */
	u16 octets;    /* of the owner's name, so far */
	u8 step;
	u8 hint_size;
	u8 names;
	u8 count; /* of addresses */
	u8 rounds;
	u8 learned; /* addresses that are in place */
	u8 jumps;   /* pointers of the owner's name */
	bool root;  /* the record's owner is the root */
	bool opt;
	bool alias;
	u8 name_at[DNS_POINTERS_MAX +
		   1];			 /* by offset: of which name a label begins here, and one */
	u8 passed[DNS_POINTERS_MAX + 1]; /* octets of that name before the label */
	u16 name_sizes[DNS_NAMES_MAX + 1]; /* 0 while a name is being read */
	struct address addresses[DNS_ADDRESSES_MAX];
	struct dns_learned wanted; /* what is about to be stored */
};

BPF_PERCPU_ARRAY(dns_readers, struct dns_reader, 1);

static inline struct dns_reader *dns_reader(void)
{
	u32 zero = 0;

	return dns_readers.lookup(&zero);
}

/* The octets of the name at an offset, its root included; 0 if no known name has a label there. */
static inline u32 known_name_size(struct dns_reader *reader, u32 offset)
{
	u8 name;

	if (offset > DNS_POINTERS_MAX)
		return 0;
	name = reader->name_at[masked(offset, DNS_POINTERS_MAX)];
	if (!name || name > DNS_NAMES_MAX || !reader->name_sizes[name])
		return 0;
	return reader->name_sizes[name] - reader->passed[masked(offset, DNS_POINTERS_MAX)];
}

static inline void know_label(struct dns_reader *reader, u32 offset, u8 name, u32 passed)
{
	if (offset > DNS_POINTERS_MAX)
		return;
	reader->name_at[masked(offset, DNS_POINTERS_MAX)] = name;
	reader->passed[masked(offset, DNS_POINTERS_MAX)] = passed;
}

static inline void start_reader(struct dns_message *dns, struct dns_reader *reader)
{
	__builtin_memset(reader->name_at, 0, sizeof(reader->name_at));
	__builtin_memset(reader->name_sizes, 0, sizeof(reader->name_sizes));
	reader->cursor = dns_question_end(dns);
	reader->end = dns->end - dns->start;
	reader->expected = DNS_HEADER;
	reader->expected_too = 0;
	reader->ttl = DNS_TTL_SIGN - 1;
	reader->records = 0;
	reader->step = STEP_RECORD;
	reader->names = 1;
	reader->count = 0;
	reader->rounds = 0;
	reader->learned = 0;
	reader->opt = false;
	reader->name_sizes[1] = dns->name_size;
	for (int i = 0; i < DNS_LABELS_MAX; i++) {
		reload();
		if (i >= dns->labels)
			break;
		know_label(reader, DNS_HEADER + dns->label_at[i], 1, dns->label_at[i]);
	}
}

static inline bool load_at(struct __sk_buff *skb, struct dns_message *dns,
			   struct dns_reader *reader, u32 at, void *to, u32 size)
{
	return at + size <= reader->end && !bpf_skb_load_bytes(skb, dns->start + at, to, size);
}

static inline bool load(struct __sk_buff *skb, struct dns_message *dns, struct dns_reader *reader,
			void *to, u32 size)
{
	return load_at(skb, dns, reader, reader->cursor, to, size);
}

static inline u32 pointer_of(u8 *octets)
{
	return ((u32)(octets[0] & ~DNS_POINTER) << 8) | octets[1];
}

static inline bool is_expected(struct dns_reader *reader, u32 owner)
{
	return owner == reader->expected || (reader->expected_too && owner == reader->expected_too);
}

static inline bool in_answers(struct dns_message *dns, struct dns_reader *reader)
{
	return reader->records <= dns->answers;
}

/* Begins what is inside a record of the answer section; false: odd. */
static inline bool open_record(struct __sk_buff *skb, struct dns_message *dns,
			       struct dns_reader *reader, u16 type, u16 length)
{
	u8 priority[2];

	switch (type) {
	case DNS_TYPE_A:
	case DNS_TYPE_AAAA:
		reader->step = STEP_HINT;
		reader->hint_size = type == DNS_TYPE_A ? 4 : 16;
		reader->hint_end = reader->record_end;
		reader->parameter = 0;
		return is_expected(reader, reader->owner) && length == reader->hint_size;
	case DNS_TYPE_CNAME:
		reader->step = STEP_CNAME;
		reader->name_start = reader->cursor;
		reader->names++;
		return is_expected(reader, reader->owner) && reader->names <= DNS_NAMES_MAX;
	case DNS_TYPE_SVCB:
	case DNS_TYPE_HTTPS:
		if (length < 3 || !load(skb, dns, reader, priority, sizeof(priority)))
			return false;
		reader->step = STEP_TARGET;
		reader->alias = !priority[0] && !priority[1];
		reader->cursor += sizeof(priority);
		reader->name_start = reader->cursor;
		reader->parameter = 0;
		return is_expected(reader, reader->owner);
	}
	reader->cursor = reader->record_end;
	return true;
}

/* Begins the walk along an owner's name. */
static inline bool walk_owner(struct dns_message *dns, struct dns_reader *reader)
{
	reader->walk = reader->cursor;
	reader->name_start = reader->cursor;
	reader->after = 0;
	reader->octets = 0;
	reader->jumps = 0;
	reader->step = STEP_OWNER;
	return !in_answers(dns, reader);
}

static inline bool read_owner(struct __sk_buff *skb, struct dns_message *dns,
			      struct dns_reader *reader)
{
	u8 octets[2] = {};

	reader->records++;
	reader->owner = 0;
	reader->step = STEP_HEAD;
	if (!load(skb, dns, reader, octets, 1))
		return false;
	reader->root = !octets[0];
	if (reader->root) {
		/* An OPT record, or the SOA of a refusal; in an answer it is odd. */
		reader->cursor++;
		return !in_answers(dns, reader);
	}
	if (octets[0] < DNS_POINTER)
		return walk_owner(dns, reader);
	if (!load(skb, dns, reader, octets, 2))
		return false;
	reader->owner = pointer_of(octets);
	if (!is_expected(reader, reader->owner) && !known_name_size(reader, reader->owner))
		return walk_owner(dns, reader);
	reader->cursor += 2;
	return true;
}

/* One label of an owner's name, a pointer, or its end; each pointer leads before its own run. */
static inline bool pass_label(struct __sk_buff *skb, struct dns_message *dns,
			      struct dns_reader *reader)
{
	u8 octets[2] = {};
	u32 pointer;

	if (!load_at(skb, dns, reader, reader->walk, octets, 1))
		return false;
	if (octets[0] && octets[0] <= DNS_LABEL_MAX) {
		reader->walk += 1 + octets[0];
		reader->octets += 1 + octets[0];
		return reader->octets < 255;
	}
	if (!octets[0]) {
		reader->cursor = reader->after ? reader->after : reader->walk + 1;
		reader->step = STEP_HEAD;
		return true;
	}
	if (octets[0] < DNS_POINTER || !load_at(skb, dns, reader, reader->walk, octets, 2))
		return false;
	pointer = pointer_of(octets);
	if (pointer < DNS_HEADER || pointer >= reader->name_start)
		return false;
	if (!reader->after)
		reader->after = reader->walk + 2;
	reader->walk = pointer;
	reader->name_start = pointer;
	return reader->jumps++ < DNS_JUMPS_MAX;
}

static inline bool read_head(struct __sk_buff *skb, struct dns_message *dns,
			     struct dns_reader *reader)
{
	u8 head[10]; /* type, class, TTL, length */
	u16 type, length;

	if (!load(skb, dns, reader, head, sizeof(head)))
		return false;
	reader->cursor += sizeof(head);
	reader->step = STEP_RECORD;
	type = ((u16)head[0] << 8) | head[1];
	length = ((u16)head[8] << 8) | head[9];
	reader->record_ttl =
		((u32)head[4] << 24) | ((u32)head[5] << 16) | ((u32)head[6] << 8) | head[7];
	if (reader->record_ttl & DNS_TTL_SIGN)
		reader->record_ttl = 0;
	reader->record_end = reader->cursor + length;
	if (reader->record_end > reader->end)
		return false;
	if (in_answers(dns, reader) && head[2] == 0 && head[3] == DNS_CLASS_IN)
		return open_record(skb, dns, reader, type, length);
	if (type == DNS_TYPE_OPT && reader->records > dns->answers + dns->authorities) {
		if (reader->opt || !reader->root)
			return false;
		reader->opt = true;
	}
	reader->cursor = reader->record_end;
	return true;
}

static inline void least_ttl(struct dns_reader *reader)
{
	if (reader->record_ttl < reader->ttl)
		reader->ttl = reader->record_ttl;
}

/* One label of a CNAME's target, or its end. */
static inline bool read_cname(struct __sk_buff *skb, struct dns_message *dns,
			      struct dns_reader *reader)
{
	u32 passed = reader->cursor - reader->name_start;
	u32 rest = 1, pointer = 0;
	u8 octets[2] = {};

	if (!load(skb, dns, reader, octets, 1))
		return false;
	if (octets[0] && octets[0] <= DNS_LABEL_MAX) {
		know_label(reader, reader->cursor, reader->names, passed);
		reader->cursor += 1 + octets[0];
		return reader->cursor < reader->record_end && passed < DNS_NAME_WIRE_MAX;
	}
	if (octets[0]) {
		if (octets[0] < DNS_POINTER || !load(skb, dns, reader, octets, 2))
			return false;
		pointer = pointer_of(octets);
		rest = known_name_size(reader, pointer);
		if (!rest)
			return false;
		reader->cursor++;
	}
	reader->cursor++;
	if (reader->cursor != reader->record_end || passed + rest > 255)
		return false;
	if (reader->names > DNS_NAMES_MAX)
		return false;
	reader->name_sizes[reader->names] = passed + rest;
	reader->expected = reader->name_start;
	reader->expected_too = passed ? 0 : pointer;
	least_ttl(reader);
	reader->step = STEP_RECORD;
	return true;
}

/* One label of a service's target name: no compression there (RFC 9460 §2.2). */
static inline bool read_target(struct __sk_buff *skb, struct dns_message *dns,
			       struct dns_reader *reader)
{
	u8 length;

	if (!load(skb, dns, reader, &length, 1) || length > DNS_LABEL_MAX)
		return false;
	reader->cursor += 1 + length;
	if (!length)
		reader->step = STEP_PARAMETER;
	return reader->cursor <= reader->record_end && reader->cursor - reader->name_start <= 255;
}

static inline bool read_parameter(struct __sk_buff *skb, struct dns_message *dns,
				  struct dns_reader *reader)
{
	__be16 head[2];
	u16 key, length;

	if (reader->cursor == reader->record_end) {
		reader->step = STEP_RECORD;
		return true;
	}
	if (!load(skb, dns, reader, head, 4))
		return false;
	key = bpf_ntohs(head[0]);
	length = bpf_ntohs(head[1]);
	/* Rising keys; `parameter` is the last one plus one. */
	if (key < reader->parameter || key == 0xffff)
		return false;
	reader->parameter = key + 1;
	reader->cursor += 4;
	if (reader->cursor + length > reader->record_end)
		return false;
	if (reader->alias || (key != SVCB_IPV4HINT && key != SVCB_IPV6HINT)) {
		reader->cursor += length;
		return true;
	}
	reader->hint_size = key == SVCB_IPV4HINT ? 4 : 16;
	reader->hint_end = reader->cursor + length;
	reader->step = STEP_HINT;
	return length && !(length & (reader->hint_size - 1));
}

/* One address: of an A or AAAA record, or a hint. */
static inline bool read_address(struct __sk_buff *skb, struct dns_message *dns,
				struct dns_reader *reader)
{
	u32 word[4] = {};
	u32 at = reader->count;

	if (at >= DNS_ADDRESSES_MAX)
		return false;
	if (reader->hint_size == 4) {
		if (!load(skb, dns, reader, word, 4))
			return false;
		map_ipv4(&reader->addresses[at], word[0]);
	} else {
		if (!load(skb, dns, reader, word, 16))
			return false;
		__builtin_memcpy(&reader->addresses[at], word, 16);
	}
	reader->count++;
	least_ttl(reader);
	reader->cursor += reader->hint_size;
	if (reader->cursor == reader->hint_end)
		reader->step = reader->parameter ? STEP_PARAMETER : STEP_RECORD;
	return reader->cursor <= reader->hint_end;
}

/* An address record by way of a pointer, which is nearly every record, is one step. */
static inline bool take_step(struct __sk_buff *skb, struct dns_message *dns,
			     struct dns_reader *reader)
{
	switch (reader->step) {
	case STEP_OWNER:
		return pass_label(skb, dns, reader);
	case STEP_CNAME:
		return read_cname(skb, dns, reader);
	case STEP_TARGET:
		return read_target(skb, dns, reader);
	case STEP_PARAMETER:
		return read_parameter(skb, dns, reader);
	}
	if (reader->step == STEP_RECORD && !read_owner(skb, dns, reader))
		return false;
	reload();
	if (reader->step == STEP_HEAD && !read_head(skb, dns, reader))
		return false;
	reload();
	return reader->step != STEP_HINT || read_address(skb, dns, reader);
}

enum {
	READ_MORE,
	READ_ALL,
	READ_ODD,
};

/* Some steps through the records of an answer whose question has been read. */
static inline int dns_read_records(struct __sk_buff *skb, struct dns_message *dns,
				   struct dns_reader *reader)
{
	u32 records = (u32)dns->answers + dns->authorities + dns->additionals;

	for (int i = 0; i < DNS_STEPS_AT_ONCE; i++) {
		reload();
		if (reader->step == STEP_RECORD && reader->records >= records)
			return reader->cursor == reader->end ? READ_ALL : READ_ODD;
		if (!take_step(skb, dns, reader))
			return READ_ODD;
	}
	return reader->rounds++ < DNS_ROUNDS_MAX ? READ_MORE : READ_ODD;
}

#endif
