"""The transparent DNS proxy: a sans-IO engine and the trio shells around it."""
