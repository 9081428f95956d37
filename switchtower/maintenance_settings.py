"""What is kept, and for how long? What a server and a supervisor are both told, since either may do the maintenance."""

from typing import Any

from pydantic import Field

from switchtower.courier_settings import CourierSettings
from switchtower.engine.upkeep import Retention

__all__ = ["MaintenanceSettings"]


class MaintenanceSettings(CourierSettings):
    """The settings of maintenance and of deliveries."""

    audit_days: int = Field(default=90, ge=1, le=3_650, description="How long entries of the audit trail are kept.")
    metrics: bool = Field(default=True, description="Keep what happened in each minute and hour, per queue and name.")

    @property
    def keeping_options(self) -> dict[str, Any]:
        """As `Engine.connect` takes them."""
        return {"retention": Retention(audit_seconds=self.audit_days * 24 * 3600), "metrics": self.metrics}
