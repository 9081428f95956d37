"""How are webhooks delivered here? What a server and a supervisor are both told, since either may be the courier."""

from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode

from switchtower.addresses import networks_from
from switchtower.courier import CourierOptions
from switchtower.errors import ConfigurationError

__all__ = ["CourierSettings"]


class CourierSettings(BaseSettings):
    """The settings of deliveries."""

    webhook_timeout_seconds: float = Field(
        default=30, ge=1, le=3600, description="How long one delivery of a webhook may take, its answer included."
    )
    webhook_concurrency: int = Field(default=1_000, ge=1, le=10_000, description="Deliveries at a time.")
    webhook_host_concurrency: int = Field(default=50, ge=1, le=10_000, description="Deliveries at a time to one host.")
    webhook_allowed_networks: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Networks that webhooks may be sent to although they are not public, such as 10.1.0.0/16; "
        "comma-separated.",
    )

    @field_validator("webhook_allowed_networks", mode="before")
    @classmethod
    def _networks(cls, value: object) -> object:
        return tuple(text.strip() for text in value.split(",") if text.strip()) if isinstance(value, str) else value

    @field_validator("webhook_allowed_networks")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        try:
            networks_from(value)
        except ConfigurationError as error:
            raise ValueError(error.message) from None
        return value

    @property
    def courier_options(self) -> CourierOptions:
        """As the courier knows them."""
        return CourierOptions(
            timeout_seconds=self.webhook_timeout_seconds,
            concurrency=self.webhook_concurrency,
            host_concurrency=self.webhook_host_concurrency,
            allowed_networks=self.webhook_allowed_networks,
        )
