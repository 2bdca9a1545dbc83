"""The guard under soak: everything on, behind a proxy on loopback whose word on addresses is taken."""

import sys
from hashlib import sha256
from pathlib import Path

HONEST = tuple(f"honest-{number}" for number in range(6))
HOSTILE = ("flooder", "cutter", "sleeper", "crowd")
CLIENTS = 200
"""How many clients each limit counts apart: few enough to be passed by invented ones while the soak warms up."""

_POLICY = """\
auth = "keys"
max_failed_logins = "10/minute"

[identity]
trusted_proxies = ["127.0.0.0/8"]

[[limits]]
name = "client"
quota = "240/minute"

[[limits]]
name = "address"
quota = "600/minute"
per = "address"

[[limits]]
name = "day"
quota = "1000000/day"

[[limits]]
name = "everyone"
quota = "10000000/hour"
per = "everyone"
algorithm = "window"

[[limits]]
name = "tokens"
quota = "1000000000 tokens/hour"

[[limits]]
name = "answers"
quota = "1000000000 output tokens/hour"
per = "everyone"
algorithm = "window"

[[limits]]
name = "at-once"
quota = "64 concurrent requests"

[[limits]]
name = "computing"
quota = "100000 gpu-seconds/hour"
per = "everyone"

[[plan.crowd.limits]]
name = "crowd"
quota = "600/minute"
per = "address"

[generation]
max_tokens = 256

[concurrency]
max_running = 4
max_waiting = 32
max_wait = 10

[bounds]
max_clients = {clients}
max_connections_per_address = 2048
head_timeout = 5
body_timeout = 5
write_timeout = 5
idle_timeout = 15

[admin]
listen = "127.0.0.1:{admin}"

[log]
format = "json"

[credentials]
store = ""
"""


def secret(name: str) -> str:
    """Make the key of a client that the policy knows."""
    return f"the-key-of-{name}"


def write_policy(folder: Path, admin: int) -> Path:
    """Write the policy; `admin` is the port of the metrics."""
    text = _POLICY.format(clients=CLIENTS, admin=admin)
    for name in (*HONEST, *HOSTILE):
        digest = sha256(secret(name).encode()).hexdigest()
        text += f'\n[[keys]]\nname = "{name}"\nsha256 = "{digest}"\n'
        if name == "crowd":
            text += 'plan = "crowd"\n'
    path = folder / "corral.toml"
    path.write_text(text)
    return path


def command(policy: Path, upstream: str, port: int, compiled: Path | None) -> list[str]:
    """Say how the guard is started. Its log is formatted and written, and kept nowhere: a long soak's would be long."""
    environment = ["env", f"PYTHONPATH={compiled}"] if compiled else []
    corral = str(Path(sys.executable).with_name("corral"))
    return [
        *environment, corral, "guard", upstream, "--listen", f"127.0.0.1:{port}", "--policy", str(policy),
        "--log", "/dev/null",
    ]  # fmt: skip
