"""The mistakes that the picker answers: each carries what the outer protocol needs, and crashes nothing."""

from picker.facts import Reason


class BadRequest(Exception):
    """The client's mistake. `param` is the field of the body at fault, "" for the whole body."""

    def __init__(self, message: str, param: str = "", status: int = 400, reason: Reason = "bad_request") -> None:
        super().__init__(message)
        self.message, self.param, self.status, self.reason = message, param, status, reason


class NoEndpoint(Exception):
    """Nothing can serve this request now: 503."""


class ConfigError(Exception):
    """An EndpointPickerConfig that cannot be served: the message names the field, what is wrong and the remedy."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field, self.message = field, message
