"""The only Ray room: gateway and model replicas as Ray Serve deployments, and the local launcher."""
