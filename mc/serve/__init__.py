"""Sessions behind the chat server."""
