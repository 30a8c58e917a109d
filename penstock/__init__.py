"""The composition root: the only package that knows all the others."""

import os

# Envoy is started by fork and exec from a process that uses gRPC; gRPC's fork handlers would only complain of its threads.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
