"""What can go wrong between an app and its Upshot server."""


class ClientError(Exception):
    """Base of the SDK's errors. It says what, which one, and what to do."""


class Unreachable(ClientError):
    """No answer, or one that says to try again later; `retry_after` seconds if it says when."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Refused(ClientError):
    """The server answered, and not with what was asked for."""

    def __init__(self, message: str, *, status: int, document: object = None) -> None:
        super().__init__(message)
        self.status = status
        self.document = document
