"""The project's own workers, whoever they are."""

NAMES = ("Ada", "Grace")
