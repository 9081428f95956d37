"""How it is served: HTTP, WebSocket and event streams; the only package that knows a web framework."""
