"""Signed tokens (JWT, RFC 7519) as credentials, checked as RFC 8725 says."""
