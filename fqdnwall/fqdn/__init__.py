"""Names, the addresses they resolved to, and for how long."""
