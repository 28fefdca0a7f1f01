"""``python -m fqdnwall.datapath.layouts`` writes ``bpf/lib/layouts.h``."""

from fqdnwall.datapath.layouts.header import HEADER, header

HEADER.write_text(header())
