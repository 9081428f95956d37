"""How many workers, on which database? From arguments, then SWITCHTOWER_* variables, then switchtower.toml."""

from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from switchtower.maintenance_settings import MaintenanceSettings

__all__ = ["WorkerSettings"]


class WorkerSettings(MaintenanceSettings):
    """What a supervisor and its worker processes need to know."""

    model_config = SettingsConfigDict(env_prefix="SWITCHTOWER_", toml_file="switchtower.toml", extra="ignore")

    mongodb_url: str | None = Field(None, description="The replica set that holds the jobs.")
    database: str = Field("switchtower", description="The database on it.")
    driver: Literal["pymongo", "motor"] = Field("pymongo", description="The driver that carries the bytes.")
    workers: int = Field(1, ge=1, le=256, description="How many worker processes.")
    concurrency: int = Field(10, ge=1, le=10_000, description="How many jobs each process runs at a time.")
    queues: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="The queues to work on, comma-separated; empty: those that the tasks name."
    )
    lease_seconds: float = Field(30, ge=1, le=3600, description="How long a silent worker keeps its jobs.")
    drain_seconds: float = Field(30, ge=0, le=86_400, description="How long running jobs may take to finish at a stop.")
    grace_seconds: float = Field(10, ge=0, le=3600, description="How long a handler that was told to stop may take.")
    health_port: int | None = Field(None, ge=0, le=65_535, description="Serve /livez and /readyz here; none: do not.")
    health_host: str = Field("127.0.0.1", description="The address for the health endpoint.")
    reload: bool = Field(False, description="Restart the workers when Python files change.")

    @field_validator("queues", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value

    @field_validator("mongodb_url", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return value or None

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
