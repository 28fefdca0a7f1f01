/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Handing packets to the proxy's sockets. The proxy listens on loopback only; a packet gets there
 * by bpf_sk_assign and a mark that policy routing delivers locally. The client's connection goes
 * to the server's address as far as the client and the socket can tell.
 */
#ifndef FQDNWALL_PROXY_H
#define FQDNWALL_PROXY_H

#include "conntrack.h"

#define TCP_STATE_CLOSE 7 /* also of a UDP socket that is not connected */
#define TCP_STATE_LISTEN 10

static inline void fill_tuple(struct bpf_sock_tuple *tuple, bool ipv6, struct address *source,
			      __be16 source_port, struct address *destination,
			      __be16 destination_port)
{
	if (ipv6) {
		__builtin_memcpy(tuple->ipv6.saddr, source, sizeof(*source));
		__builtin_memcpy(tuple->ipv6.daddr, destination, sizeof(*destination));
		tuple->ipv6.sport = source_port;
		tuple->ipv6.dport = destination_port;
	} else {
		tuple->ipv4.saddr = source->word[3];
		tuple->ipv4.daddr = destination->word[3];
		tuple->ipv4.sport = source_port;
		tuple->ipv4.dport = destination_port;
	}
}

static inline u32 tuple_size(bool ipv6, struct bpf_sock_tuple *tuple)
{
	return ipv6 ? sizeof(tuple->ipv6) : sizeof(tuple->ipv4);
}

static inline void loopback(bool ipv6, struct address *address)
{
	if (ipv6) {
		address->word[0] = 0;
		address->word[1] = 0;
		address->word[2] = 0;
		address->word[3] = bpf_htonl(1);
	} else {
		map_ipv4(address, bpf_htonl(0x7f000001));
	}
}

static inline int assign(struct __sk_buff *skb, struct bpf_sock *socket)
{
	int failed = bpf_sk_assign(skb, socket, 0);

	bpf_sk_release(socket);
	if (failed)
		return -DROP_PROXY_SET_FAILED;
	skb->mark = (skb->mark & ~MARK_MASK) | MARK_TO_PROXY;
	return 0;
}

/* To the proxy's half of a client's connection, or to its listener. */
static inline int assign_to_proxy(struct __sk_buff *skb, struct flow *flow, bool ipv6)
{
	struct node_config *settings = node_config();
	struct bpf_sock_tuple tuple = {};
	struct address listener;
	struct bpf_sock *socket;
	__be16 port;

	if (!settings)
		return -DROP_PROXY_LOOKUP_FAILED;
	if (flow->key.protocol == IPPROTO_TCP) {
		fill_tuple(&tuple, ipv6, &flow->key.local, flow->key.local_port, &flow->key.remote,
			   flow->key.remote_port);
		socket = bpf_skc_lookup_tcp(skb, &tuple, tuple_size(ipv6, &tuple),
					    BPF_F_CURRENT_NETNS, 0);
		if (socket) {
			/* TIME_WAIT too: it would let no new connection of the same ports be. */
			if (socket->state != TCP_STATE_LISTEN)
				return assign(skb, socket);
			bpf_sk_release(socket);
		}
		port = ipv6 ? settings->dns_tcp6 : settings->dns_tcp4;
	} else if (flow->key.protocol == IPPROTO_UDP) {
		port = ipv6 ? settings->dns_udp6 : settings->dns_udp4;
	} else {
		return -DROP_PROXY_UNKNOWN_PROTOCOL;
	}
	if (!port)
		return -DROP_PROXY_LOOKUP_FAILED;
	loopback(ipv6, &listener);
	__builtin_memset(&tuple, 0, sizeof(tuple));
	fill_tuple(&tuple, ipv6, &flow->key.local, flow->key.local_port, &listener, port);
	if (flow->key.protocol == IPPROTO_TCP)
		socket = bpf_skc_lookup_tcp(skb, &tuple, tuple_size(ipv6, &tuple),
					    BPF_F_CURRENT_NETNS, 0);
	else
		socket = bpf_sk_lookup_udp(skb, &tuple, tuple_size(ipv6, &tuple),
					   BPF_F_CURRENT_NETNS, 0);
	if (!socket)
		return -DROP_PROXY_LOOKUP_FAILED;
	return assign(skb, socket);
}

/* A socket that is found and connected is connected to the packet's ends. */
static inline bool is_connected(struct bpf_sock *socket)
{
	return socket->state != TCP_STATE_CLOSE && socket->state != TCP_STATE_LISTEN;
}

/*
 * The proxy asks a server with the client's own address, from a socket connected to that server.
 * Finds that socket for a packet from the server.
 */
static inline struct bpf_sock *upstream_socket(struct __sk_buff *skb, struct packet *packet)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *socket;

	if (packet->fragment)
		return NULL;
	fill_tuple(&tuple, packet->ipv6, &packet->source, packet->source_port, &packet->destination,
		   packet->destination_port);
	if (packet->protocol == IPPROTO_UDP)
		socket = bpf_sk_lookup_udp(skb, &tuple, tuple_size(packet->ipv6, &tuple),
					   BPF_F_CURRENT_NETNS, 0);
	else if (packet->protocol == IPPROTO_TCP)
		socket = bpf_sk_lookup_tcp(skb, &tuple, tuple_size(packet->ipv6, &tuple),
					   BPF_F_CURRENT_NETNS, 0);
	else
		return NULL;
	if (!socket)
		return NULL;
	if (is_connected(socket))
		return socket;
	bpf_sk_release(socket);
	return NULL;
}

/* From the endpoint's egress hook, where no socket can be assigned, to its ingress hook. */
static inline bool redirect_upstream(struct __sk_buff *skb, struct packet *packet)
{
	struct bpf_sock *socket = upstream_socket(skb, packet);

	if (!socket)
		return false;
	bpf_sk_release(socket);
	skb->mark = (skb->mark & ~MARK_MASK) | MARK_UPSTREAM;
	return true;
}

static inline int assign_upstream(struct __sk_buff *skb, struct packet *packet)
{
	struct bpf_sock *socket = upstream_socket(skb, packet);

	if (!socket)
		return -DROP_PROXY_LOOKUP_FAILED;
	/* The frame was addressed to the endpoint. */
	bpf_skb_change_type(skb, PACKET_HOST);
	return assign(skb, socket);
}

#endif
