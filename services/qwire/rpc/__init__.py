"""The gRPC edge: servicers, conversion, validation, interceptors, status table, server. Knows no Ray."""
