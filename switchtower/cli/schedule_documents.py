"""Which GraphQL documents do `crons` and `flows` send?

A test holds each of them against the committed schema.
"""

from __future__ import annotations

__all__ = [
    "CANCEL_FLOW",
    "CHANGE_CRON",
    "CREATE_CRON",
    "CRON",
    "CRONS",
    "DELETE_CRON",
    "ENQUEUE_FLOW",
    "FLOW",
    "FLOWS",
    "RETRY_FLOW",
    "TRIGGER_CRON",
]

_ERROR = "... on Error { code message } ... on ValidationError { field }"
_CRON = """id name enabled expression everyMs timezone overlap catchUp jitterMs startsAt endsAt limit fired
  lastFiredAt nextRunAt job { name queue payload priority maxAttempts tags }"""
_COUNTS = "scheduled waiting blocked active retrying completed failed cancelled"
_FLOW = f"id state total finished progress createdAt counts {{ {_COUNTS} }}"

CRONS = f"""query Crons($first: Int, $after: String) {{ crons(first: $first, after: $after) {{
  pageInfo {{ hasNextPage endCursor }} nodes {{ {_CRON} }} }} }}"""
CRON = f"""query Cron($id: ID!) {{ cron(id: $id) {{ {_CRON} nextRuns(count: 10)
  fires(last: 10) {{ slot at outcome jobId reason job {{ state }} }} }} }}"""
CREATE_CRON = f"""mutation Create($input: CreateCronInput!) {{ createCron(input: $input) {{
  ... on Cron {{ {_CRON} }} {_ERROR} }} }}"""
CHANGE_CRON = {
    verb: f"mutation Change($id: ID!) {{ {verb}Cron(id: $id) {{ ... on Cron {{ {_CRON} }} {_ERROR} }} }}"
    for verb in ("enable", "disable")
}
DELETE_CRON = f"mutation Delete($id: ID!) {{ deleteCron(id: $id) {{ ... on Cron {{ {_CRON} }} {_ERROR} }} }}"
TRIGGER_CRON = f"""mutation Trigger($id: ID!) {{ triggerCron(id: $id) {{
  ... on Job {{ id name queue state }} {_ERROR} }} }}"""

FLOWS = f"""query Flows($state: JobState, $first: Int, $after: String) {{
  flows(state: $state, first: $first, after: $after) {{ pageInfo {{ hasNextPage endCursor }}
  nodes {{ {_FLOW} root {{ name queue }} }} }} }}"""
FLOW = f"""query Flow($id: ID!, $after: String) {{ flow(id: $id) {{ {_FLOW} root {{ name queue }}
  jobs(first: 500, after: $after) {{ pageInfo {{ hasNextPage endCursor }}
  nodes {{ id name queue state parentId progress error {{ type message }} }} }} }} }}"""
ENQUEUE_FLOW = f"""mutation Enqueue($input: EnqueueFlowInput!) {{ enqueueFlow(input: $input) {{
  ... on Flow {{ {_FLOW} }} {_ERROR} }} }}"""
CANCEL_FLOW = f"""mutation Cancel($id: ID!) {{ cancelFlow(id: $id) {{
  ... on BulkOperation {{ id verb matched changed done }} {_ERROR} }} }}"""
RETRY_FLOW = f"mutation Retry($id: ID!) {{ retryFlow(id: $id) {{ ... on Flow {{ {_FLOW} }} {_ERROR} }} }}"
