"""Who does the work? The processes: a supervisor that starts worker processes and never imports user code."""
