"""The chat server: an API in the form of OpenAI's, and a page."""
