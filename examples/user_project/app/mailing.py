"""How the project writes its mails."""

from schema.messages import Message


def render(message: Message) -> str:
    """The text of a mail."""
    return f"To: {message.to}\nSubject: {message.subject}\n\nHello {message.to.partition('@')[0]}!"
