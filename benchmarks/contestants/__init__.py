"""The servers that are compared, in the order in which they take turns."""

from benchmarks.contestants.contestant import Contestant
from benchmarks.contestants.corral import Corral, Everything, Interpreted
from benchmarks.contestants.envoy import Envoy
from benchmarks.contestants.litellm import LiteLlm
from benchmarks.contestants.nginx import Nginx
from benchmarks.contestants.slowapi import Slowapi

CONTESTANTS: tuple[Contestant, ...] = (
    Nginx(),
    Everything(),
    Corral(),
    Interpreted(),
    Envoy(),
    LiteLlm(),
    Slowapi("slowapi", "httpx"),
    Slowapi("slowapi-httpx2", "httpx2"),
)

__all__ = ["CONTESTANTS", "Contestant"]
