"""What a mail is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Message:
    """One mail."""

    to: str
    subject: str
