"""Endpoints: what is behind an interface, and what policy says of it."""
