"""Forward-auth: the guard's decision by a request's head, for a proxy that relays the request itself."""
