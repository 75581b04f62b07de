"""OpenAI's and Ollama's APIs: requests, replies that grow, and the formats of both."""
