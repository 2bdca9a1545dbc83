"""nginx: `limit_req`, and `proxy_pass` with and without buffering."""

import os
from pathlib import Path

from benchmarks.cases import Case
from benchmarks.contestants.contestant import Setup
from benchmarks.upstream import Upstream

_CONFIG = """\
daemon off;
worker_processes 1;
{user}
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 1024; }}
http {{
  access_log {folder}/access.log combined buffer=64k flush=1s;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000000;
  limit_req_zone $binary_remote_addr zone=clients:10m rate={rate};
  upstream model {{
    server {server};
    keepalive 128;
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{
      {limit}
      proxy_pass http://model;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering {buffering};
    }}
  }}
}}
"""

_REFUSE = """limit_req zone=clients;
      limit_req_status 429;
      limit_req_log_level info;"""


class Nginx:
    """One worker; limits by address at 1 a minute where it refuses, no limit and no keys where it relays."""

    name = "nginx"
    missing = ""
    conditions = (
        "one worker; refused: limit_req by $binary_remote_addr, 1r/m, status 429, refusals not in the error log; "
        "proxied and sse: proxy_pass with upstream keepalive, no limit, no keys (sse: proxy_buffering off); "
        "access_log combined, buffered, to a file"
    )

    def plays(self, case: Case) -> bool:
        """Tell that it takes part in everything."""
        del case
        return True

    def set_up(self, case: Case, port: int, upstream: Upstream, folder: Path) -> Setup:
        """Write nginx.conf."""
        text = _CONFIG.format(
            user="user root;" if os.geteuid() == 0 else "",
            folder=folder,
            rate="1r/m",
            server=upstream.nginx,
            port=port,
            limit=_REFUSE if case.refuses else "",
            buffering="off" if case.stream else "on",
        )
        config = str(folder / "nginx.conf")
        command = ("nginx", "-e", str(folder / "error.log"), "-p", str(folder), "-c", config)
        return Setup(command, {"nginx.conf": text})
