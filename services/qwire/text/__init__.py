"""Text: from messages to token ids, and from token ids to text. Sits on the engine, knows no gRPC and no Ray."""
