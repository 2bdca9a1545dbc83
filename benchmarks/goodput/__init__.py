"""Goodput: what honest clients of a real llama-server get while others flood it with valid keys."""
