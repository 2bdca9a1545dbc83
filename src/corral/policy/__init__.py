"""What the operator wrote, typed."""
