"""How is this server configured? From SWITCHTOWER_* variables, then switchtower.toml."""

import ipaddress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from app.limits import RequestLimits
from schema.limits import Limits
from switchtower.maintenance_settings import MaintenanceSettings

__all__ = ["ServerSettings"]

MEBIBYTE = 1024 * 1024


class ServerSettings(MaintenanceSettings):
    """What a server needs to know. Sizes are bytes; every limit is on by default."""

    model_config = SettingsConfigDict(env_prefix="SWITCHTOWER_", toml_file="switchtower.toml", extra="ignore")

    mongodb_url: str | None = Field(
        default=None, description="The replica set that holds the jobs; none: the embedded one."
    )
    database: str = Field(default="switchtower", min_length=1, max_length=38, description="The database on it.")
    driver: Literal["pymongo", "motor"] = Field(default="pymongo", description="The driver that carries the bytes.")
    data_dir: Path = Field(default=Path(".switchtower"), description="Where the embedded database keeps its files.")
    host: str = Field(default="127.0.0.1", description="The address to listen on.")
    port: int = Field(default=8420, ge=0, le=65_535, description="The port to listen on; 0 takes a free one.")
    allow_insecure_bind: bool = Field(
        default=False, description="Listen on an address that others can reach before there is an API key."
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Host names under which the server is addressed, comma-separated, besides the loopback's.",
    )
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Origins, besides the server's own, whose pages may open WebSockets; comma-separated."
    )
    queues: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="The only queues that this server shows to anybody, comma-separated; none: all."
    )
    search_paths: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Payload paths, such as user.id, that searches find by an index; comma-separated."
    )
    payload_limit_bytes: int = Field(
        default=MEBIBYTE, ge=1024, le=8 * MEBIBYTE, description="The size of a job's payload."
    )
    max_depth: int = Field(default=10, ge=3, le=100, description="Levels of fields in an operation.")
    max_tokens: int = Field(default=1_000, ge=100, le=20_000, description="Tokens in a query text.")
    max_aliases: int = Field(
        default=30, ge=0, le=1_000, description="Aliases in an operation, with its fragments expanded."
    )
    max_cost: int = Field(default=10_000, ge=100, description="Field values that an answer may hold.")
    max_page: int = Field(default=500, ge=1, le=500, description="Items in one page of a list.")
    max_query_bytes: int = Field(default=262_144, ge=1_024, le=16 * MEBIBYTE, description="The size of a query text.")
    max_body_bytes: int = Field(
        default=16 * MEBIBYTE, ge=1_024, le=64 * MEBIBYTE, description="The size of a request's body."
    )
    max_frame_bytes: int = Field(
        default=2 * MEBIBYTE, ge=1_024, le=64 * MEBIBYTE, description="The size of a WebSocket message."
    )
    max_subscriptions: int = Field(default=50, ge=1, le=10_000, description="Operations at a time on one WebSocket.")
    max_key_connections: int = Field(
        default=100, ge=1, description="WebSockets and event streams at a time of one API key, on this server."
    )
    max_key_subscriptions: int = Field(
        default=200, ge=1, description="Operations at a time on all streams of one API key, on this server."
    )
    max_connections: int = Field(default=1_000, ge=1, description="WebSockets at a time from one address.")
    introspection: bool = Field(default=True, description="Let clients read the schema.")
    suggestions: bool = Field(default=True, description="Let errors name the field that was perhaps meant.")
    playground: bool = Field(default=True, description="Serve the page for trying out operations at /graphql.")
    legacy_ws: bool = Field(default=False, description="Also speak the legacy graphql-ws protocol.")
    read_only: bool = Field(default=False, description="Refuse every mutation.")
    conveyor_base_path: str = Field(
        default="/",
        pattern=r"^/([A-Za-z0-9._~-]+(/[A-Za-z0-9._~-]+)*/?)?$",
        description="The path in front of Conveyor's routes at the root of the server, such as /admin.",
    )
    maintenance: bool = Field(
        default=True, description="Take part in maintenance (staging, rescuing, counting) and in delivering webhooks."
    )

    @field_validator("allowed_hosts", "allowed_origins", "queues", "search_paths", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value

    @field_validator("mongodb_url", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return value or None

    @field_validator("allowed_hosts")
    @classmethod
    def _lower(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name.lower() for name in value)

    @model_validator(mode="after")
    def _refuse_open_bind(self) -> "ServerSettings":
        if self.is_loopback:
            return self
        if self.mongodb_url is None:
            raise ValueError(
                f"{self.host} can be reached from outside, and the embedded database is for this machine alone: "
                "set SWITCHTOWER_MONGODB_URL, or listen on 127.0.0.1."
            )
        return self

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def conveyor_base(self) -> str:
        """The path in front of Conveyor's routes, without a slash at its end."""
        return self.conveyor_base_path.rstrip("/")

    @property
    def engine_options(self) -> dict[str, Any]:
        """How to connect the server's engine, its address excepted."""
        return {
            "database": self.database,
            "driver": self.driver,
            "role": "server",
            "payload_limit": self.payload_limit_bytes,
            "search_paths": self.search_paths,
            **self.keeping_options,
        }

    @property
    def operation_limits(self) -> Limits:
        """The bounds of one operation."""
        return Limits(
            depth=self.max_depth,
            tokens=self.max_tokens,
            aliases=self.max_aliases,
            cost=self.max_cost,
            query_characters=self.max_query_bytes,
            introspection=self.introspection,
            suggestions=self.suggestions,
        )

    @property
    def request_limits(self) -> RequestLimits:
        """The bounds of one request or message."""
        return RequestLimits(body_bytes=self.max_body_bytes, frame_bytes=self.max_frame_bytes)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)
