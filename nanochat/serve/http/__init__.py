"""HTTP server: OpenAI-compatible API, session routes, chat page."""
