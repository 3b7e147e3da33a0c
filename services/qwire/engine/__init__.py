"""Tokens: the engine that turns prompt token ids into output token ids. Knows no text, no gRPC and no Ray."""
