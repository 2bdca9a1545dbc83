"""The guard's own listener: its metrics, its health, and what whoever runs it may see and do."""
