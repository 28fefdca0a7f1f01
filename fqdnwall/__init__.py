"""fqdnwall: a DNS-aware egress firewall and CNI datapath. See docs/ and README.md."""

__version__ = "0.1.0"
