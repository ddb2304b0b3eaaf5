"""What only single topics need: one module a topic, each used by a chapter or two."""
