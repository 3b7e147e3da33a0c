"""8-bit weights on CPUs: a compiled kernel, its build, and the layers that use it."""
