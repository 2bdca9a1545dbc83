"""The guard for WSGI applications, such as Flask's: `app.wsgi_app = corral.wsgi.Guard(app.wsgi_app)`."""

from corral.guard.wsgi import Guard

__all__ = ["Guard"]
