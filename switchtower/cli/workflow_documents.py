"""Which GraphQL documents do `workflows` and `publish` send?

A test holds each of them against the committed schema.
"""

from __future__ import annotations

__all__ = ["CANCEL_RUN", "PUBLISH_EVENT", "REPLAY_RUN", "RUN", "RUNS", "START_RUN", "WORKFLOWS"]

_ERROR = "... on Error { code message } ... on ValidationError { field }"
_RUN = "id workflow version state currentStep createdAt startedAt finishedAt error { type message }"

WORKFLOWS = "query Workflows { workflows { name versions } }"
RUNS = f"""query Runs($filter: WorkflowRunFilter, $first: Int, $after: String) {{
  workflowRuns(filter: $filter, first: $first, after: $after) {{ pageInfo {{ hasNextPage endCursor }}
  nodes {{ {_RUN} }} }} }}"""
RUN = f"""query Run($id: ID!) {{ workflowRun(id: $id) {{ {_RUN} input output
  steps {{ name kind status attempts result error {{ type message }} }} }} }}"""
START_RUN = f"""mutation Start($input: StartWorkflowInput!) {{ startWorkflow(input: $input) {{
  ... on WorkflowRun {{ {_RUN} }} {_ERROR} }} }}"""
CANCEL_RUN = f"""mutation Cancel($id: ID!) {{ cancelWorkflowRun(id: $id) {{
  ... on WorkflowRun {{ {_RUN} }} {_ERROR} }} }}"""
REPLAY_RUN = f"""mutation Replay($id: ID!, $step: String!) {{ replayWorkflowRun(id: $id, fromStep: $step) {{
  ... on WorkflowRun {{ {_RUN} }} {_ERROR} }} }}"""
PUBLISH_EVENT = f"""mutation Publish($input: PublishEventInput!) {{ publishEvent(input: $input) {{
  ... on PublishedEvent {{ id name publishedAt }} {_ERROR} }} }}"""
