"""Serving: decoding thread, worker processes, admission control and the HTTP server."""
