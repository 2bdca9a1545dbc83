"""Every check, in the order that a report shows them."""

from corral.scan.checks.auth_missing import MissingAuthentication
from corral.scan.checks.base import Check
from corral.scan.checks.expose_state import ExposedState
from corral.scan.checks.input_empty import EmptyPrompt
from corral.scan.checks.input_malformed import MalformedInput
from corral.scan.checks.load_degradation import Degradation
from corral.scan.checks.proto_oversize import OversizeBody
from corral.scan.checks.rate_burst import NoRateLimit
from corral.scan.checks.signal_headers import NoQuotaHeaders
from corral.scan.checks.tokens_unbounded import UnboundedTokens

CHECKS: tuple[Check, ...] = (
    MissingAuthentication(),
    NoRateLimit(),
    NoQuotaHeaders(),
    Degradation(),
    UnboundedTokens(),
    MalformedInput(),
    EmptyPrompt(),
    OversizeBody(),
    ExposedState(),
)
