"""HTTP server: routes, security, limits, metrics, sessions, chat page."""
