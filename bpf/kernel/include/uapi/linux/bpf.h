/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* bcc brings its own linux/bpf.h and has included it by now. */
