"""Which GraphQL documents does the command line send?

A test holds each of them against the committed schema.
"""

from __future__ import annotations

__all__ = [
    "AUDIT",
    "BULK",
    "BULK_PROGRESS",
    "CHANGE",
    "DEAD_LETTER",
    "DEAD_LETTERS",
    "DRAIN_QUEUE",
    "ERRORS",
    "JOB",
    "JOBS",
    "PAUSE_QUEUE",
    "PURGE_DEAD_LETTERS",
    "QUEUE",
    "QUEUES",
    "QUEUE_COUNTS",
    "QUEUE_LIMITS",
    "REMOVE_DEAD_LETTERS",
    "REPLAY_DEAD_LETTER",
    "REPLAY_DEAD_LETTERS",
    "RESUME_QUEUE",
    "SEARCH",
    "SET_QUEUE_LIMITS",
    "STATS",
    "WATCH_JOB",
    "WHY",
    "WORKERS",
    "WORKER_NAMES",
]

_ERROR = "... on Error { code message } ... on ValidationError { field }"
_COUNTS = "scheduled waiting blocked active retrying completed failed cancelled"
_QUEUE = f"name paused pausedNames pausedGroups counts {{ {_COUNTS} }} latencyMs throughputPerMinute"
_FAILURE = "kind type message fingerprint stack"
_JOB = f"""id customId name queue state priority payload result progress attempt maxAttempts tags group uniqueKey
  runAt createdAt startedAt finishedAt timeoutMs cancelRequestedAt error {{ {_FAILURE} }}"""
_LOGS = "logs { at level line attempt }"
_DEAD_LETTER = "id jobId name queue failedAt attempt maxAttempts replayedAt replayJobIds error { kind type message }"
_BULK = "id verb matched changed failed done exact sampleIds"

JOBS = """query Jobs($filter: JobFilter, $first: Int, $after: String) {
  jobs(filter: $filter, first: $first, after: $after) { pageInfo { hasNextPage endCursor }
  nodes { id name queue state attempt maxAttempts progress createdAt runAt startedAt finishedAt
    error { type message } } } }"""

JOB = f"""query Job($id: ID!) {{ job(id: $id) {{ {_JOB} parentId pendingChildren workerId {_LOGS}
  attempts {{ number generation outcome startedAt endedAt error {{ {_FAILURE} }} }}
  timeline {{ type at from to actor attempt }} }} }}"""

WATCH_JOB = f"subscription Watch($id: ID!) {{ job(id: $id) {{ {_JOB} {_LOGS} }} }}"

WHY = """query Why($id: ID!) { job(id: $id) {
  id name queue state attempt maxAttempts runAt createdAt startedAt finishedAt
  error { kind type message } whyNotRunning { kind message until mutation } } }"""

CHANGE = {
    verb: f"mutation Change($id: ID!) {{ {verb}Job(id: $id) {{ ... on Job {{ id name queue state }} {_ERROR} }} }}"
    for verb in ("retry", "cancel", "promote")
}
BULK = {
    verb: f"mutation Bulk($filter: JobFilter!, $dryRun: Boolean!) {{"
    f" {verb}Jobs(filter: $filter, dryRun: $dryRun) {{ ... on BulkOperation {{ {_BULK} }} {_ERROR} }} }}"
    for verb in ("retry", "cancel", "promote")
}
BULK_PROGRESS = f"subscription Bulk($id: ID!) {{ bulkOperation(id: $id) {{ {_BULK} }} }}"

QUEUES = f"query Queues {{ queues {{ {_QUEUE} }} }}"
QUEUE = f"query Queue($name: String!) {{ queue(name: $name) {{ {_QUEUE} groups {{ name waiting active paused }} }} }}"
PAUSE_QUEUE = f"""mutation Pause($name: String!, $jobName: String, $group: String) {{
  pauseQueue(name: $name, jobName: $jobName, group: $group) {{
  ... on Queue {{ {_QUEUE} }} {_ERROR} }} }}"""
RESUME_QUEUE = PAUSE_QUEUE.replace("Pause(", "Resume(").replace("pauseQueue", "resumeQueue")
_RATE = "concurrency rate { starts perMs }"
_LIMITS = f"limits {{ {_RATE} names {{ name {_RATE} }} perGroup {{ {_RATE} }} groups {{ name {_RATE} }} }}"
QUEUE_LIMITS = f"query Limits($name: String!) {{ queue(name: $name) {{ {_LIMITS} }} }}"
SET_QUEUE_LIMITS = f"""mutation Limit($name: String!, $input: QueueLimitsInput!) {{
  setQueueLimits(name: $name, input: $input) {{ ... on Queue {{ {_LIMITS} }} {_ERROR} }} }}"""
DRAIN_QUEUE = f"""mutation Drain($name: String!) {{ drainQueue(name: $name) {{
  ... on RemovedJobs {{ removed }} {_ERROR} }} }}"""
QUEUE_COUNTS = f"""subscription Counts($names: [String!], $intervalMs: Int) {{
  queueCounts(names: $names, intervalMs: $intervalMs) {{ {_QUEUE} }} }}"""

DEAD_LETTERS = f"""query DeadLetters($filter: DeadLetterFilter, $first: Int, $after: String) {{
  deadLetters(filter: $filter, first: $first, after: $after) {{
  pageInfo {{ hasNextPage endCursor }} nodes {{ {_DEAD_LETTER} }} }} }}"""
DEAD_LETTER = f"query DeadLetter($id: ID!) {{ deadLetter(id: $id) {{ {_DEAD_LETTER} payload error {{ stack }} }} }}"
REPLAY_DEAD_LETTER = f"""mutation Replay($id: ID!) {{ replayDeadLetter(id: $id) {{
  ... on Job {{ id name queue state }} {_ERROR} }} }}"""
REPLAY_DEAD_LETTERS = f"""mutation Replay($filter: DeadLetterFilter!) {{ replayDeadLetters(filter: $filter) {{
  ... on ReplayedDeadLetters {{ replayed errors {{ code message }} }} {_ERROR} }} }}"""
REMOVE_DEAD_LETTERS = f"""mutation Remove($ids: [ID!]!) {{ removeDeadLetters(ids: $ids) {{
  ... on RemovedDeadLetters {{ removed }} {_ERROR} }} }}"""
PURGE_DEAD_LETTERS = f"""mutation Purge($olderThanMs: Int!) {{ purgeDeadLetters(olderThanMs: $olderThanMs) {{
  ... on RemovedDeadLetters {{ removed }} {_ERROR} }} }}"""

AUDIT = """query Audit($filter: AuditFilter, $first: Int!, $after: String) {
  audit(filter: $filter, first: $first, after: $after) { pageInfo { hasNextPage endCursor }
  nodes { id at action source status actor queue jobId target details error } } }"""
SEARCH = """query Search($text: String!, $type: SearchType!, $queue: String, $first: Int!, $after: String) {
  search(query: $text, type: $type, queue: $queue, first: $first, after: $after) {
  jobs { id name queue state createdAt } queues scanned exhaustive cursor } }"""
STATS = f"query Stats {{ stats {{ jobs counts {{ {_COUNTS} }} deadLetters queues workers }} }}"
ERRORS = """query Errors($filter: JobFilter) { errorClusters(filter: $filter) {
  fingerprint count queues names firstSeen lastSeen sampleJobId error { kind type message } } }"""
WORKERS = """subscription Workers { workers { id state hostname pid concurrency queues
  currentJobs { id name queue startedAt progress } } }"""
WORKER_NAMES = "query Workers { workers { state names } }"
