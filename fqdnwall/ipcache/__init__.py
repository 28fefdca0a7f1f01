"""Whose address it is: prefixes and their identities, from all that the agent knows."""
