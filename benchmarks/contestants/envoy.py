"""Envoy: a local rate limit, and a plain route to the upstream."""

from pathlib import Path

from benchmarks.cases import CASES, Case
from benchmarks.contestants.contestant import Setup
from benchmarks.contestants.peers import program
from benchmarks.upstream import Upstream

_CONFIG = """\
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: ingress
          generate_request_id: false
          access_log:
          - name: envoy.access_loggers.file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: {folder}/access.log
          route_config:
            virtual_hosts:
            - name: model
              domains: ["*"]
              routes:
              - match: {{prefix: "/"}}
                route: {{cluster: model, timeout: 60s}}
          http_filters:{limit}
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
  - name: model
    type: STATIC
    load_assignment:
      cluster_name: model
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {address}}}
"""

# A refusal before the body was taken in would close the connection, and connecting anew would be what is measured.
_LIMIT = """
          - name: envoy.filters.http.buffer
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer
              max_request_bytes: 1048576
          - name: envoy.filters.http.local_ratelimit
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
              stat_prefix: limit
              token_bucket: {max_tokens: 1, tokens_per_fill: 1, fill_interval: 60s}
              filter_enabled: {default_value: {numerator: 100}}
              filter_enforced: {default_value: {numerator: 100}}
              enable_x_ratelimit_headers: DRAFT_VERSION_03"""


class Envoy:
    """One worker; a token bucket of one a minute where it refuses, no limit and no keys where it relays."""

    name = "envoy"
    conditions = (
        "one worker; refused: local_ratelimit, one token a minute, with its X-RateLimit headers, behind its buffer "
        "filter, so that connections are kept; proxied and sse: a plain route, no limit, no keys; access log to a file"
    )

    @property
    def missing(self) -> str:
        """Name what is not there."""
        return "" if program("envoy").exists() else "Envoy (make bench installs it)"

    def plays(self, case: Case) -> bool:
        """Tell that it takes part in what the bars speak of."""
        return case in CASES

    def set_up(self, case: Case, port: int, upstream: Upstream, folder: Path) -> Setup:
        """Write envoy.yaml."""
        address = (
            f"{{pipe: {{path: {upstream.path}}}}}"
            if upstream.path
            else f"{{socket_address: {{address: 127.0.0.1, port_value: {upstream.port}}}}}"
        )
        text = _CONFIG.format(folder=folder, port=port, address=address, limit=_LIMIT if case.refuses else "")
        command = (
            str(program("envoy")), "--config-path", str(folder / "envoy.yaml"), "--concurrency", "1",
            "--disable-hot-restart", "--log-level", "warning",
        )  # fmt: skip
        return Setup(command, {"envoy.yaml": text})
