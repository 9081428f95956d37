"""Switchtower: a GraphQL-first job queue on MongoDB.

User code needs only what is named here: an `App` and its tasks, the context of a running job, and what a handler may
raise. Everything is imported at first use, so that the command line starts fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from switchtower.callers import Caller
    from switchtower.context import Cancel, ChildFailed, Fail, JobContext, RetryAt, Snooze, Stop, WaitForChildren
    from switchtower.deduplication import DeduplicationMode, DeduplicationOptions
    from switchtower.durable import RunHandle, StepFailed, WaitTimeout, WorkflowChanged, WorkflowContext
    from switchtower.errors import (
        ConfigurationError,
        Conflict,
        InvalidInput,
        InvalidTransition,
        LeaseLost,
        NotFound,
        StoreUnavailable,
        SwitchtowerError,
    )
    from switchtower.flows import FlowNode, node
    from switchtower.handlers import App
    from switchtower.jobs import ChildFailure, Enqueued, Job, JobError, NewJob
    from switchtower.retry import Backoff, BackoffKind
    from switchtower.states import JobState
    from switchtower.tasks import Task, Workflow

__all__ = [
    "App",
    "Backoff",
    "BackoffKind",
    "Caller",
    "Cancel",
    "ChildFailed",
    "ChildFailure",
    "ConfigurationError",
    "Conflict",
    "DeduplicationMode",
    "DeduplicationOptions",
    "Enqueued",
    "Fail",
    "FlowNode",
    "InvalidInput",
    "InvalidTransition",
    "Job",
    "JobContext",
    "JobError",
    "JobState",
    "LeaseLost",
    "NewJob",
    "NotFound",
    "RetryAt",
    "RunHandle",
    "Snooze",
    "StepFailed",
    "Stop",
    "StoreUnavailable",
    "SwitchtowerError",
    "Task",
    "WaitForChildren",
    "WaitTimeout",
    "Workflow",
    "WorkflowChanged",
    "WorkflowContext",
    "__version__",
    "node",
]

__version__ = "0.1.0"

_HOMES = {
    "callers": ("Caller",),
    "context": ("Cancel", "ChildFailed", "Fail", "JobContext", "RetryAt", "Snooze", "Stop", "WaitForChildren"),
    "deduplication": ("DeduplicationMode", "DeduplicationOptions"),
    "durable": ("RunHandle", "StepFailed", "WaitTimeout", "WorkflowChanged", "WorkflowContext"),
    "errors": (
        "ConfigurationError",
        "Conflict",
        "InvalidInput",
        "InvalidTransition",
        "LeaseLost",
        "NotFound",
        "StoreUnavailable",
        "SwitchtowerError",
    ),
    "flows": ("FlowNode", "node"),
    "handlers": ("App",),
    "jobs": ("ChildFailure", "Enqueued", "Job", "JobError", "NewJob"),
    "retry": ("Backoff", "BackoffKind"),
    "states": ("JobState",),
    "tasks": ("Task", "Workflow"),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module 'switchtower' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"switchtower.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
