// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* All programs, as one text for bcc. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/pkt_cls.h>

#include "endpoint.c"
#include "dns.c"
