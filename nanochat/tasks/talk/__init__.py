"""Talk about the assistant itself, and its answer to what it cannot do."""
