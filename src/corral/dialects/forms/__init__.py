"""How each kind of request body is spelled."""
