"""A live view of a guard, read from its admin API."""
