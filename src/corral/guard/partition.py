"""Whom a limit counts: the partition key of a request."""

from ipaddress import IPv6Network, ip_network

from corral.engine.decision import PartitionKey
from corral.guard.credentials import Credential
from corral.policy.model import Identity, Partition, Policy
from corral.policy.models import OTHER, known_models

_Value = tuple[str, str]

_BESIDE_ADDRESSES = ("key", "user")
"""What a rule may count in the place of an address."""


class Partitions:
    """Names whom the limits of one policy count.

    There are as many names as there are addresses, credentials, plans and routes: of models only those that the policy
    knows have a name of their own, since clients may write whatever they like.
    """

    def __init__(self, policy: Policy) -> None:
        self._identity: Identity = policy.identity
        self._models = known_models(policy)

    def model(self, asked: str | None) -> str:
        """Say what a model counts as."""
        return asked if asked is not None and asked in self._models else OTHER

    def name(
        self, parts: tuple[Partition, ...], address: str, key: Credential | None, route: str = "", model: str = OTHER
    ) -> PartitionKey | None:
        """Name whom a rule of these `partitions` counts; None where it does not apply. `model` is from `model()`.

        What one part alone names is told by its value, unless addresses stand beside it: a pair of words would take
        72 bytes more for each client.
        """
        if len(parts) == 1:
            part = parts[0]
            if part == "everyone":
                return "everyone"
            alone = self._value(part, address, key, route, model)
            return alone if alone is None or alone[0] in _BESIDE_ADDRESSES else alone[1]
        name: tuple[str, ...] = ()
        for part in parts:
            value = self._value(part, address, key, route, model)
            if value is None:
                return None
            name += value
        return name

    def _value(self, part: Partition, address: str, key: Credential | None, route: str, model: str) -> _Value | None:
        if part == "client":
            return ("address", address) if key is None else ("key", key.name)
        if part == "address":
            return "address", address
        if part == "user":
            return ("address", address) if key is None else ("user", key.user)
        if part == "key":
            return None if key is None else ("credential", key.id or key.name)
        if part == "model":
            return "model", model
        if part == "route":
            return "route", route
        if part == "plan":
            return "plan", "" if key is None else key.plan or ""
        return "prefix", self._network(address)

    def _network(self, address: str) -> str:
        """Name the network of an address as it is counted; what is none, as a socket's peer, is its own."""
        try:
            network = ip_network(address)
        except ValueError:
            return address
        length = self._identity.ipv6_prefix if isinstance(network, IPv6Network) else self._identity.ipv4_prefix
        return str(network.supernet(new_prefix=min(length, network.prefixlen)))
